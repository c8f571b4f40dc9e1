from backstay.security import Principal


def test_a_principal_has_the_scopes_that_it_has() -> None:
    principal = Principal("7", scopes=frozenset({"orders:read", "admin"}))

    assert principal.has_scopes()
    assert principal.has_scopes("admin")
    assert principal.has_scopes("admin", "orders:read")
    assert not principal.has_scopes("admin", "orders:write")
