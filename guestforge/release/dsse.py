"""A signed statement in a file: DSSE, https://github.com/secure-systems-lab/dsse/blob/master/protocol.md"""

import base64
import binascii
import json
from collections.abc import Callable
from typing import Annotated, Final, Literal

from pydantic import Field

from guestforge.release.documents import Document, Refused, Text, parsed

TYPE: Final = "application/vnd.in-toto+json"

# From what is signed to how the key is called, and the signature.
Sign = Callable[[bytes], tuple[str, bytes]]
# Takes what is signed, how the key is called, and a signature; raises Refused for another key or a wrong signature.
Check = Callable[[bytes, str, bytes], None]


class _Signature(Document):
    keyid: Text
    sig: str


class _Envelope(Document):
    type: Literal["application/vnd.in-toto+json"] = Field(alias="payloadType")
    payload: str
    signatures: Annotated[list[_Signature], Field(min_length=1, max_length=1)]


def signed_bytes(payload: bytes) -> bytes:
    """Return what is signed of a statement: its type and itself, each behind its length."""
    return b"DSSEv1 %d %s %d %s" % (len(TYPE), TYPE.encode(), len(payload), payload)


def envelope(payload: bytes, sign: Sign) -> bytes:
    """Return the file, of one line, that holds a statement and its signature."""
    return _text(payload, *sign(signed_bytes(payload)))


def _text(payload: bytes, name: str, signature: bytes) -> bytes:
    signatures = [{"keyid": name, "sig": base64.b64encode(signature).decode()}]
    value = {"payload": base64.b64encode(payload).decode(), "payloadType": TYPE, "signatures": signatures}
    return json.dumps(value).encode() + b"\n"


def opened(data: bytes, check: Check | None) -> bytes:
    """Return the statement in a file; raises Refused for anything that we would not write, and as `check` does."""
    found = parsed(_Envelope, data, "it")
    (signed,) = found.signatures
    try:
        payload, signature = (base64.b64decode(text, validate=True) for text in (found.payload, signed.sig))
    except (binascii.Error, ValueError) as e:
        raise Refused(f"it is not all base64: {e}") from e
    if len(signature) != 64 or _text(payload, signed.keyid, signature) != data:
        raise Refused("its text is not as we write it")
    if check:
        check(signed_bytes(payload), signed.keyid, signature)
    return payload
