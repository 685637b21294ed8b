"""Output formats, one module each; every one renders the service's messages and decides nothing."""
