import pytest

from backstay.load.routes import Route, RouteTable

TABLE = RouteTable(
    [
        Route("GET", "/products/new", "^/products/new$"),
        Route("GET", "/products/{product_id}", "^/products/(?P<product_id>[^/]+)$"),
        Route("PATCH", "/products/{product_id}", "^/products/(?P<product_id>[^/]+)$"),
        Route("GET", "/files/{path}", "^/files/(?P<path>.*)$"),
    ]
)


@pytest.mark.parametrize(
    ("method", "url", "template"),
    [
        ("GET", "/products/7", "/products/{product_id}"),
        ("GET", "/products/7?fields=name", "/products/{product_id}"),
        ("PATCH", "/products/new", "/products/{product_id}"),
        ("GET", "/products/new", "/products/new"),
        ("GET", "/files/a/b/c", "/files/{path}"),
        ("GET", "http://127.0.0.1:8000/products/7", "/products/{product_id}"),
    ],
)
def test_a_path_counts_for_the_first_route_that_it_fits(method: str, url: str, template: str) -> None:
    assert TABLE.find_template(method, url) == template


@pytest.mark.parametrize(("method", "url"), [("DELETE", "/products/7"), ("GET", "/products/7/parts?page=2")])
def test_a_path_without_a_route_keeps_its_own_name_without_the_query(method: str, url: str) -> None:
    assert TABLE.find_template(method, url) == url.partition("?")[0]
