"""``python -m lieaudit_client`` is the ``lieaudit`` command."""

from lieaudit_client.command import main

main()
