"""Hub client for downloads and pushes: timeouts, retries, errors as text.

Imports `errors`; needs huggingface_hub.
"""
