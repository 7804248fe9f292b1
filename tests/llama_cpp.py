"""llama.cpp, for the tests that run it: in an environment of its own, whose Python RLAIF_DPO_LLAMA_CPP names."""

import os
import shutil
from typing import Any

import pytest

PYTHON = os.environ.get("RLAIF_DPO_LLAMA_CPP", "")


def needs_llama_cpp(test: Any) -> Any:
    """Marks a test for `make test-llama`, and skips it where there is no such Python."""
    absent = pytest.mark.skipif(
        not shutil.which(PYTHON),
        reason="RLAIF_DPO_LLAMA_CPP names no Python with llama-cpp-python[server]; `make test-llama` makes one",
    )
    return pytest.mark.llama_cpp(absent(test))
