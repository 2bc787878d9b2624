"""The reader of HTTP requests' bodies: the server, asked in its own process, that draws tiny pictures."""

from starlette.testclient import TestClient

from fuzz.bounded import Read
from pocket_diffusion import Pipeline
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.server import Limits, create_app

BOUNDARY = "boundary"
"""Between the parts of forms."""
BODIES = {
    "/api/jobs": "application/json",
    "/generate": "application/json",
    "/prompt": "application/json",
    "/v1/images/generations": "application/json",
    "/v1/images/edits": f"multipart/form-data; boundary={BOUNDARY}",
    "/v1/images/variations": f"multipart/form-data; boundary={BOUNDARY}",
    "/sdapi/v1/txt2img": "application/json",
    "/sdapi/v1/img2img": "application/json",
    "/sdapi/v1/png-info": "application/json",
    "/sdapi/v1/extra-single-image": "application/json",
    "/sdapi/v1/options": "application/json",
}
"""What takes a body, and of which kind it is."""
_LIMITS = Limits(pixels=128 * 128, steps=20, count=2, queue=4)
"""As small as they can be for what the embedded model draws unasked."""
_LARGEST_ANSWER = 2**22


def request() -> Read:
    """Answer a POST: an input is a path, a line's end, and a body."""
    client = TestClient(create_app(Pipeline.load(provider="cpu", threads=1), limits=_LIMITS))
    client.__enter__()  # for as long as the process lives

    def read(content: bytes) -> None:
        path, _, body = content.partition(b"\n")
        answer = client.post(path.decode(), content=body, headers={"Content-Type": BODIES[path.decode()]})
        assert answer.status_code < 500, f"answered {answer.status_code}: {answer.text[:200]}"
        assert len(answer.content) <= _LARGEST_ANSWER, f"answered with {len(answer.content)} bytes"
        if answer.status_code >= 400:
            raise InvalidRequestError(answer.json()["detail"])

    return read
