"""What people do with the service: `backstay load` sends many of them, while `backstay run` serves."""

from datetime import timedelta
from random import choice
from uuid import uuid4

from backstay.load import ServiceUser, Threshold
from locust import between, task

SOON = Threshold(p95=timedelta(milliseconds=500))
thresholds = {"GET /products": SOON, "GET /products/{product_id}": SOON, "PATCH /users/{user_id}": SOON}


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
        read = self.client.get(path)
        read.raise_for_status()
        headers = {"If-Match": read.headers["ETag"]}  # overwrites no other change
        self.client.patch(path, json={"name": "Ada Lovelace"}, headers=headers)
