"""The ground floor: a FastAPI app with its parts joined."""
