"""Guests laid out where Kata Containers' runtimes look for them.

`guests` finds what may be installed, `places` says where it goes, `layout` puts it there and takes it away again, and
`kata` writes what the runtimes are told of it.
"""
