"""Version 1: package ``lieaudit.v1``; the modules are generated from the .proto files beside them."""
