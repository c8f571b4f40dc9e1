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
    """Registers and logs in once, then looks at what was stored, and corrects it."""

    fixed_count = 5  # one address may log in 50 times in 15 minutes
    wait_time = between(1, 3)

    def on_start(self) -> None:
        """Register under a new address, and log in."""
        email, password = f"{uuid4()}@load.example", str(uuid4())
        user = self.client.post("/users", json={"email": email, "name": "Ada", "password": password})
        user.raise_for_status()
        form = {"grant_type": "password", "username": email, "password": password}
        login = self.client.post("/oauth/token", data=form)
        login.raise_for_status()
        self.path = f"/users/{user.json()['userId']}"
        self.token = {"Authorization": f"Bearer {login.json()['access_token']}"}

    @task
    def correct(self) -> None:
        """Read, and change what was read."""
        read = self.client.get(self.path, headers=self.token)
        read.raise_for_status()
        self.wait()
        headers = {"If-Match": read.headers["ETag"], **self.token}  # overwrites no other change
        self.client.patch(self.path, json={"name": "Ada Lovelace"}, headers=headers)
