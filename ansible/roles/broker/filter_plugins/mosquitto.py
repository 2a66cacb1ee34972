"""Password hashes as Mosquitto keeps them, made on the control node."""

import base64
import hashlib

_ITERATIONS = 101
_SALT_BYTES = 12


def mosquitto_password_hash(password: str, user: str) -> str:
    """Return the PBKDF2-SHA512 entry (``$7$``) of a password.

    ``mosquitto_passwd`` takes a random salt, so the file would change on every run. Here the salt comes from the
    password itself; that gives nothing away because the passwords are random and 32 characters long, and it is also
    why Mosquitto's own low iteration count is enough.
    """
    salt = hashlib.sha256(b"kinwatch mosquitto salt\0" + user.encode() + b"\0" + password.encode()).digest()
    salt = salt[:_SALT_BYTES]
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS)
    return f"$7${_ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


class FilterModule:
    """Ansible's entry point to the filters of this file."""

    def filters(self) -> dict[str, object]:
        """Name the filters."""
        return {"mosquitto_password_hash": mosquitto_password_hash}
