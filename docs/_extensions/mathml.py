"""Equations as MathML, made when the site is built: browsers show it without a script or a font
from elsewhere."""

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.errors import ExtensionError

CONVERTER = LatexToMathML(annotation=False, fancy_error=False)


def convert(node, display):
    try:
        return CONVERTER.convert_with_local_state(node.astext(), displaystyle=display)
    except LatexError as error:
        raise ExtensionError(
            f"{node.source}:{node.line}: cannot convert {node.astext()!r}: {error}"
        ) from error


def inline(translator, node):
    translator.body.append(convert(node, display=False))
    raise nodes.SkipNode


def block(translator, node):
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    translator.body.append(convert(node, display=True))
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer(
        "mathml", inline_renderers=(inline, None), block_renderers=(block, None)
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
