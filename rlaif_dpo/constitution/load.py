"""Reading a constitution: a shipped name, or a YAML, JSON or Markdown file."""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from rlaif_dpo.constitution.document import Problems, build, from_mapping, make_principle, tidy
from rlaif_dpo.constitution.explain import TOKENS
from rlaif_dpo.constitution.schema import Constitution, Principle
from rlaif_dpo.errors import UserError, did_you_mean, did_you_mean_file
from rlaif_dpo.files import read_document
from rlaif_dpo.shipped import shipped_files

SUFFIXES = (".yaml", ".yml", ".json", ".md")
CRITIQUE_KEYS = ("critic", "critique", "critique_request", "prompt")
REVISION_KEYS = ("revision", "revision_request", "edit_request")
PAIR_COMPARE = "Which reply needs this change less: {revision}"


def shipped_constitutions() -> dict[str, Path]:
    """The constitutions that ship with the package, by name."""
    return shipped_files("constitutions", *SUFFIXES)


def load_constitution(name_or_path: str | Path) -> Constitution:
    """A constitution by its shipped name (`telehealth`) or its file (`.yaml`, `.yml`, `.json`, `.md`).

    Raises:
        UserError: Unknown name or missing file; or one line `file:line: problem` for each problem of the document.
    """
    path = Path(name_or_path)
    if path.suffix not in SUFFIXES:
        shipped = shipped_constitutions()
        if str(name_or_path) not in shipped:
            raise UserError(
                f'There is no constitution "{name_or_path}".{did_you_mean(str(name_or_path), shipped)}'
                f" Or name a file that ends in {', '.join(SUFFIXES)}."
            )
        path = shipped[str(name_or_path)]
    text = _read(path)
    if path.suffix == ".md":
        return _from_markdown(text, path)
    if path.suffix == ".json":
        return _from_json(text, path)
    return from_mapping(_parse_yaml(text, path), path.stem, Problems(str(path)))


def read_critic_revision_json(path: str | Path) -> Constitution:
    """Critique/revision pairs as the field stores them; each field a string or a list of strings.

    Two shapes are read: `{"constitutions": [{"critic", "revision"}, ...]}` (other keys, such as example dialogues, are left
    alone) and `{"harmful0": {"prompt", "edit_request"}, ...}` (Bai et al. 2022, 2212.08073), whose `CritiqueRequest:` and
    `Critique:` markers are stripped. A pair has no wording for the judge, so it asks which reply needs the revision less.

    Raises:
        UserError: One line per problem.
    """
    path = Path(path)
    return _from_pairs(_parse_json(_read(path), path), path)


def without(constitution: Constitution, *ids: str) -> Constitution:
    """The constitution less the principles `ids`, with its own hash.

    Raises:
        UserError: An unknown id, or no principle left.
    """
    _known_ids(constitution, ids)
    return _subset(constitution, [p for p in constitution.principles if p.id not in ids])


def only(constitution: Constitution, *ids: str) -> Constitution:
    """The constitution with the principles `ids` alone, in its own order and with its own hash.

    Raises:
        UserError: An unknown id, or no principle left.
    """
    _known_ids(constitution, ids)
    return _subset(constitution, [p for p in constitution.principles if p.id in ids])


def _known_ids(constitution: Constitution, ids: tuple[str, ...]) -> None:
    known = [p.id for p in constitution.principles]
    for id in ids:
        if id not in known:
            raise UserError(f'The constitution "{constitution.name}" has no principle "{id}".{did_you_mean(id, known)}')


def _subset(constitution: Constitution, principles: list[Principle]) -> Constitution:
    if not principles:
        raise UserError(f'No principle of the constitution "{constitution.name}" is left; keep at least one.')
    return build(constitution.name, constitution.description, principles)


def _read(path: Path) -> str:
    return read_document(path, lambda: f"There is no constitution file {path}.{did_you_mean_file(path, shipped_constitutions())}")


def _parse_yaml(text: str, path: Path) -> object:
    try:
        return _loaded(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}" if mark else f"{path}"
        problem = " ".join((error.problem or error.context or "not YAML").split())
        raise UserError(f"{place}: This is not valid YAML ({problem}); check indentation, quotes and colons.") from None
    except (YAMLError, ValueError) as error:
        raise UserError(f"{path}: This is not valid YAML ({' '.join(str(error).split())}).") from None


@lru_cache(maxsize=32)
def _loaded(text: str) -> object:
    """A command reads the same constitution several times, and parsing it is what takes long. Nobody changes what was read."""
    return YAML().load(text)


def _parse_json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: This is not valid JSON ({error.msg}).") from None


def _from_json(text: str, path: Path) -> Constitution:
    document = _parse_json(text, path)
    if isinstance(document, Mapping) and "principles" in document:
        return from_mapping(document, path.stem, Problems(str(path)))
    return _from_pairs(document, path)


def _from_pairs(document: Any, path: Path) -> Constitution:
    problems = Problems(str(path))
    pairs: dict[str, Any] = {}
    if isinstance(document, Mapping) and isinstance(document.get("constitutions"), list):
        pairs = {f"principle-{i:02d}": pair for i, pair in enumerate(document["constitutions"], start=1)}
    elif isinstance(document, Mapping):
        pairs = {_slug(key): pair for key, pair in document.items()}
    if not pairs:
        shapes = '{"constitutions": [{"critic", "revision"}]}, {"harmful0": {"prompt", "edit_request"}}'
        problems.add(None, f'Expected {shapes} or a list "principles".')
    principles = [_pair(id, pair, problems) for id, pair in pairs.items()]
    problems.raise_any()
    return build(path.stem, "", [p for p in principles if p])


def _pair(id: str, pair: object, problems: Problems) -> Principle | None:
    if not isinstance(pair, Mapping):
        problems.add(None, f"{id}: Expected an object with a critique and a revision.")
        return None
    for key in pair:
        if key not in (*CRITIQUE_KEYS, *REVISION_KEYS):
            problems.add(None, f'{id}: Unknown key "{key}".{did_you_mean(str(key), (*CRITIQUE_KEYS, *REVISION_KEYS))}')
    critique = _pair_text(id, pair, CRITIQUE_KEYS, problems)
    revision = _pair_text(id, pair, REVISION_KEYS, problems)
    if not critique or not revision:
        return None
    compare = PAIR_COMPARE.format(revision=revision)
    return make_principle(id, critique, critique=critique, revision=revision, compare=compare)


def _pair_text(id: str, pair: Mapping[str, Any], keys: tuple[str, ...], problems: Problems) -> str:
    value = next((pair[key] for key in keys if key in pair), None)
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        problems.add(None, f'{id}: "{keys[0]}" must be a text or a list of texts.')
        return ""
    text = tidy(re.sub(r"^\s*(Critique|Revision)Request:|(Critique|Revision):\s*$", "", " ".join(parts)))
    if not text:
        problems.add(None, f'{id}: "{keys[0]}" is empty.')
    return text


def _slug(heading: str) -> str:
    return re.sub(r"\W+", "-", heading.strip().lower()).strip("-")


def _from_markdown(text: str, path: Path) -> Constitution:
    """`# name`, a description, then `## id` sections: the first paragraph is the principle, the rest says why, which is told."""
    problems = Problems(str(path))
    text = re.sub(r"<!--.*?-->", lambda comment: "\n" * comment[0].count("\n"), text, flags=re.DOTALL)
    name, sections = path.stem, [("", 0, "")]
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("# "):
            name = line[2:].strip()
        elif line.startswith("## "):
            sections.append((_slug(line[3:]), number, ""))
        else:
            id, start, body = sections[-1]
            sections[-1] = (id, start, f"{body}{line}\n")
    principles: dict[str, Principle] = {}
    for id, start, body in sections[1:]:
        sentence, _, why = tidy(body).partition("\n\n")
        if not id or not sentence:
            problems.add(start, "A principle is a heading `## its-id` with its sentence below.")
        elif id in principles:
            problems.add(start, f'The id "{id}" is used twice; give each principle its own.')
        else:
            principles[id] = make_principle(id, sentence, explain=TOKENS, why=why)
    if len(sections) == 1:
        problems.add(None, "A constitution needs at least one heading `## its-id` with its sentence below.")
    problems.raise_any()
    return build(name, tidy(sections[0][2]), list(principles.values()))
