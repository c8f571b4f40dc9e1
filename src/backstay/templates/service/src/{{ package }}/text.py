"""Text that more than one domain puts on the wire."""

from typing import Annotated

from pydantic import StringConstraints

# One line: no line breaks, and no other control characters.
Name = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=120, pattern=r"^[^\x00-\x1f]*$")
]
