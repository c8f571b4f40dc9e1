"""What people do with the service; `backstay load` does it many times over, while `backstay run` serves."""

from datetime import timedelta
from random import choice
from uuid import uuid4

from backstay.load import ServiceUser, Threshold
from locust import between, task

thresholds = {
    "GET /products": Threshold(p95=timedelta(milliseconds=500)),
    "GET /products/{product_id}": Threshold(p95=timedelta(milliseconds=300)),
    "POST /users": Threshold(p95=timedelta(milliseconds=500)),
    "GET /users/{user_id}": Threshold(p95=timedelta(milliseconds=300)),
    "PATCH /users/{user_id}": Threshold(p95=timedelta(milliseconds=500)),
}


class Visitor(ServiceUser):
    """Looks around, as most people do."""

    weight = 4
    wait_time = between(1, 3)

    @task
    def browse(self) -> None:
        """List the cheapest products, turn the page, look at one of them."""
        for page in (1, 2):
            response = self.client.get("/products", params={"sort": "price", "page": page, "size": 2})
            response.raise_for_status()
            self.wait()
        if products := response.json()["items"]:
            self.client.get(f"/products/{choice(products)['productId']}")


class Customer(ServiceUser):
    """Registers, looks at what was stored, and corrects it."""

    wait_time = between(1, 3)

    @task
    def register(self) -> None:
        """Register under a new address each time."""
        response = self.client.post("/users", json={"email": f"{uuid4()}@load.example", "name": "Ada"})
        response.raise_for_status()
        path = f"/users/{response.json()['userId']}"
        self.wait()
        response = self.client.get(path)
        self.wait()
        # The tag says which state is corrected; one that has changed meanwhile is not overwritten.
        tag = response.headers.get("ETag") or "*"
        self.client.patch(path, json={"name": "Ada Lovelace"}, headers={"If-Match": tag})
