"""What `import stepstream` offers."""

import subprocess
import sys

import pytest

import stepstream


def test_importing_the_package_loads_neither_grpc_nor_protobuf():
    code = "import sys, stepstream; print({'grpc', 'google', 'msgspec'} & set(sys.modules))"

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == "set()"


@pytest.mark.parametrize("name", stepstream.__all__)
def test_each_public_name_is_there(name):
    assert getattr(stepstream, name) is not None
    assert name in dir(stepstream)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = stepstream.nonsense
