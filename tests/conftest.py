"""What all tests share: the packaged tools are found, whether or not the virtual environment is activated."""

from tests.bench import find_tools

find_tools()
