"""Password hashes as Mosquitto keeps them, made on the control node."""  # noqa: INP001  # Ansible loads it by path

import base64
import hashlib

_ITERATIONS = 101
_SALT_BYTES = 12


def entry(password: str, salt: bytes) -> str:
    """Return the PBKDF2-SHA512 form (``$7$``) of a password with a given salt."""
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS)
    return f"$7${_ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def mosquitto_password_hash(password: str, user: str) -> str:
    """Return what stands in the password file behind ``user:``, the same on every run.

    ``mosquitto_passwd`` takes a random salt, so the file would change every time. Here the salt comes from the
    password itself; that gives nothing away because the passwords are random and 32 characters long, and it is also
    why Mosquitto's own low iteration count is enough.
    """
    salt = hashlib.sha256(b"kinwatch mosquitto salt\0" + user.encode() + b"\0" + password.encode()).digest()
    return entry(password, salt[:_SALT_BYTES])


class FilterModule:
    """Ansible's entry point to the filters of this file."""

    def filters(self) -> dict[str, object]:
        """Name the filters."""
        return {"mosquitto_password_hash": mosquitto_password_hash}
