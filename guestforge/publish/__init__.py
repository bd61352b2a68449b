"""Places for releases: a directory, an OCI registry, GitHub; and the way back from there.

`place` says what a place is, `address` finds the one that a user names, and `directory`, `oci` and `github` are the
three. What they stand on: `http` (bounded and repeated requests), `patience` (how often and how long), `body`
and `download` (files sent, and fetched on after a cut), `credentials` and `token` (who we are to a registry),
`registry` (its API), `artifact` (a release as manifests). `fetch` is the consumer's side.
"""
