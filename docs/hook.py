"""Hooks of MkDocs: add the pages of methods, and replace marked lines by generated text."""

from typing import Any

from generated import methods
from generated.marks import filled
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages of methods to the navigation."""
    listed = next(entry["Methods"] for entry in config.nav or [] if "Methods" in entry)
    listed += [{name: f"methods/{methods.file(name)}"} for name in methods.names()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each method."""
    for name in methods.names():
        files.append(File.generated(config, f"methods/{methods.file(name)}", content=methods.page(name)))
    return files


def on_page_markdown(markdown: str, **context: Any) -> str:
    """Replace the marked lines of a page."""
    return filled(markdown)
