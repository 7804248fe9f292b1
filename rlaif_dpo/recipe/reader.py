"""YAML with line numbers: YAML 1.2 scalars (`no` is text, `5e-6` a number), and a place for every key."""

from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from rlaif_dpo.errors import UserError

KeyPath = tuple[str | int, ...]
TAG = "tag:yaml.org,2002:"


@dataclass
class Document:
    """What a YAML text says.

    Attributes:
        data: Its value: `dict`, `tuple` (of a list), `str`, `int`, `float`, `bool` or None.
        lines: The line (from 1) of every key and list item, by its path.
        problems: (path, what is wrong) of what YAML allows and we do not, such as a key given twice.
    """

    data: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[tuple[KeyPath, str]] = field(default_factory=list)


def read_yaml(text: str, name: str) -> Document:
    """Read one YAML document; `name` stands for it in messages.

    Raises:
        UserError: The text is not YAML; with `name`, line and cause.
    """
    try:
        root = _compose(text)
    except MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        hint = "; indent with spaces" if "'\\t'" in str(error.problem) else ""
        raise UserError(f"{name}{line}: not valid YAML: {error.problem or error.context}{hint}") from None
    except YAMLError as error:
        raise UserError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from None
    document = Document()
    if root is not None:
        document.data = _value(root, (), document, frozenset())
    return document


@lru_cache(maxsize=32)
def _compose(text: str) -> Node | None:
    """A command reads the same recipe several times, and parsing it is what takes long. Nobody changes the nodes."""
    root: Node | None = YAML(typ="base", pure=True).compose(text)
    return root


def read_scalar(text: str) -> Any:
    """One value as YAML types it: `5e-6`, `true`, `[a, b]`. Text that needs no quotes here would need none in a file, and more.

    Raises:
        UserError: A list, mapping or quoted text that is not closed.
    """
    if text.startswith(("[", "{", "'", '"')):
        return read_yaml(text, "value").data
    return _scalar(str(_resolver().resolve(ScalarNode, text.strip(), (True, False))), text.strip())


@cache
def _resolver() -> Any:
    """Each `YAML` looks through its folder for plug-ins; writing a recipe reads a hundred scalars back."""
    return YAML(typ="base", pure=True).resolver


def _value(node: Node, path: KeyPath, document: Document, above: frozenset[int]) -> Any:
    if id(node) in above:
        document.problems.append((path, "an alias inside its own anchor"))
        return None
    above |= {id(node)}
    if isinstance(node, MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                document.problems.append((path, "a key must be a plain word"))
                continue
            here = (*path, str(key_node.value))
            line = key_node.start_mark.line + 1
            if key_node.value in mapping:
                document.problems.append((here, f"given again on line {line}; keep one"))
                continue
            document.lines[here] = line
            mapping[str(key_node.value)] = _value(value_node, here, document, above)
        return mapping
    if isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            document.lines[(*path, index)] = item.start_mark.line + 1
        return tuple(_value(item, (*path, index), document, above) for index, item in enumerate(node.value))
    try:
        return _scalar(str(node.tag), node.value)
    except ValueError as error:
        document.problems.append((path, str(error)))
        return None


def _scalar(tag: str, text: str) -> Any:
    """`text` as its YAML 1.2 core type. Dates and the rest of YAML 1.1 stay text."""
    match tag.removeprefix(TAG):
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            return int(text.replace("_", ""), 0 if text.lstrip("+-")[:2].lower() in ("0x", "0o") else 10)
        case "float":
            return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan").lower())
        case "str" | "timestamp" | "value" | "merge":
            return text
    raise ValueError(f"the tag {tag} is not used here")
