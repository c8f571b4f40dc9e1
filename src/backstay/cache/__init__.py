"""The coherent cache: a cached read is as correct as an uncached one."""
