"""What all tests share: backstay's own plugin, as a service uses it."""

pytest_plugins = ["backstay.testing", "pytester"]
