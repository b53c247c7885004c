"""Configure Sphinx for ``uvx nox -s docs``: strict, and without a network."""

from __future__ import annotations

import sys
from pathlib import Path

from nextcloud_mcp_server import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "nextcloud-mcp-server"
author = "nextcloud-mcp-server maintainers"
copyright = author
release = __version__

extensions = ["generated_pages", "myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_ext"]

# Headings get the same anchors as on GitHub, so that links work in both places.
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_block", "colon_fence"]

# Members are listed in the order of the source.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
maximum_signature_line_length = 88
python_use_unqualified_type_names = True
# The docstring of a class describes its arguments.
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# Every reference to a name of this package must be found. References to other projects are plain
# text: resolving them would need the network.
nitpick_ignore_regex = [("py:.*", r"(?!nextcloud_mcp_server\b).*")]

html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {"color-brand-primary": "#0b5cad", "color-brand-content": "#0b5cad"},
    "dark_css_variables": {"color-brand-primary": "#7db8f5", "color-brand-content": "#7db8f5"},
}
