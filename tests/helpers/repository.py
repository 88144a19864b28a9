"""Paths of the checkout, for tests in any folder."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HELPERS = ROOT / "tests" / "helpers"
TEST_DATA = ROOT / "tests" / "data"
SHIPPED_PROFILES = ROOT / "profiles" / "shipped"
