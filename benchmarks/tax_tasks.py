"""What the sandbox model should know, as tasks for `rlaif-dpo tax`: `python benchmarks/tax_tasks.py FOLDER`.

Writes `drugs.jsonl` (multiple choice: every drug's place, time, mixer and renewal), `advice.jsonl` (exact match: every
complaint's advice, cut out of the reply with --extract "(Try [^,.]+)"), and `lm_drugs.yaml`, the first file as a task of
lm-eval, in the model's chat template.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import yaml

from rlaif_dpo.files import Row, write_jsonl, write_text
from rlaif_dpo.sandbox import vocabulary as words

ASPECTS = {"store": "place", "time": "time", "taste": "mixer", "renew": "renewal"}
TEMPLATE = "<|im_start|>user\n{{question}}<|im_end|>\n<|im_start|>assistant\n"


def drugs() -> Iterator[Row]:
    """A question for each aspect of each drug; the options are what is true of any of them."""
    for aspect, field in ASPECTS.items():
        question, reply = words.LOOKALIKES[aspect]
        values = sorted({getattr(drug, field) for drug in words.DRUGS})
        for drug in words.DRUGS:
            asked = question.format(drug=drug.name, i="I", their="my")
            options = [reply.format(drug=drug.name, **{field: value}) for value in values]
            yield {"question": asked, "options": options, "answer": values.index(getattr(drug, field))}


def advice() -> Iterator[Row]:
    """A question for each complaint."""
    for complaint in words.SYMPTOMS:
        asked = words.ORDINARY_QUESTIONS[0].format(who="I", has="have", complaint=complaint.name, duration="for a week")
        yield {"question": asked, "answer": f"Try {complaint.advice}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    write_jsonl(folder / "drugs.jsonl", drugs())
    write_jsonl(folder / "advice.jsonl", advice())
    task = {
        "task": "lm_drugs",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "drugs.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": TEMPLATE,
        "doc_to_choice": "{{options}}",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")],
    }
    write_text(folder / "lm_drugs.yaml", yaml.safe_dump(task, sort_keys=False))


if __name__ == "__main__":
    main()
