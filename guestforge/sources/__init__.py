"""Where a kernel tree or a package's files come from: fetched, verified, unpacked once into the store."""
