"""The catalogue that ships: the data file of the installed genai-prices package, read without the package.

That file is Python: it builds its values from the names of the package's own `types` module, and imports nothing else
of the package. Executed as a module of this package, it finds `types` here, and builds our entries. The package itself
loads pydantic and an HTTP client, which costs a start ten times what the data does. Whether we read it right is seen by
comparing with it (tests/property/test_pricing_oracle.py).
"""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

from ext_proc.pricing.entries import Provider
from ext_proc.pricing.errors import CatalogueError

_DISTRIBUTION, _PACKAGE, _FILE = "genai-prices", "genai_prices", "data.py"


def read() -> tuple[tuple[Provider, ...], str, int]:
    """The providers, the version of the package, and when the file was written (microseconds): it is as old as the
    installation at least. Raises CatalogueError where the package has another form than the one known here.
    """
    spec = find_spec(_PACKAGE)
    assert spec is not None, "a requirement of this package"
    assert spec.origin is not None, "a package with files"
    file, installed = Path(spec.origin).with_name(_FILE), version(_DISTRIBUTION)
    try:
        providers = _execute(file)
        written_ns = file.stat().st_mtime_ns
    except (OSError, ImportError, NameError, AttributeError, TypeError, ValueError) as error:
        raise CatalogueError(
            f"{file}: the prices of {_DISTRIBUTION} {installed} are not in the form known here ({error}); install the "
            "version that pyproject.toml names, or name a file of prices with --catalogue"
        ) from None
    return providers, installed, written_ns // 1_000


def _execute(file: Path) -> tuple[Provider, ...]:
    data = spec_from_file_location(f"{__name__}.data", file)
    assert data is not None, "its name ends in .py"
    assert data.loader is not None, "its name ends in .py"
    module = module_from_spec(data)
    data.loader.exec_module(module)
    return tuple(module.providers)
