import pytest
from backstay.testing import MigrationsCheck


@pytest.mark.databases("sqlite", "postgresql")
async def test_migrations_run_up_and_down_and_match_the_models(migrations_check: MigrationsCheck) -> None:
    await migrations_check()
