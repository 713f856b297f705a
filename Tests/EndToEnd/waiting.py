"""Waiting for a condition with a deadline: the only way these tests wait."""

import time


def wait_until(condition, timeout=5.0, what="condition"):
    """Returns the first truthy value of `condition()`; fails the test after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {timeout:g} s in vain for: {what}")
        time.sleep(0.005)


def wait_until_steady(read, quiet=0.3, timeout=10.0, what="value"):
    """Waits until `read()` has not changed for `quiet` seconds and returns its value."""
    deadline = time.monotonic() + timeout
    value, since = read(), time.monotonic()
    while time.monotonic() - since < quiet:
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what} still moved after {timeout:g} s: {value}")
        time.sleep(0.01)
        now = read()
        if now != value:
            value, since = now, time.monotonic()
    return value
