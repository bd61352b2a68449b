"""The messages on the wire, as protoc generated them."""
