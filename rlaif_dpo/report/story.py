"""The run in ten lines: plain sentences with the numbers, whatever they say."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlaif_dpo.report.audit import audit_sentences
from rlaif_dpo.report.numbers import dollars, duration, interval, number, percent, points, points_interval
from rlaif_dpo.report.suites import suites_sentence

SHOWN = {"base": "base", "sft": "SFT", "dpo": "DPO", "ppo": "PPO", "grpo": "GRPO", "rloo": "RLOO"}
LEARNT = {
    "dpo": "from {preferences} (DPO)",
    "ppo": "from {preferences} (a reward model and PPO)",
    "grpo": "from what its answers earn (GRPO)",
    "rloo": "from what its answers earn (RLOO)",
}
BEGAN = {
    None: "first from its own critiques and revisions (SFT), then ",
    "revise": "from a policy that was trained before, first by critiques and revisions (SFT), then ",
    "pairs": "from a policy that was trained before, ",
}
PREFERENCES = {
    "judged": "an AI judge's preferences",
    "revision_over_draft": "preferences for its revisions over its drafts",
    "rlcd": "preferences for answers that were asked to keep a principle (RLCD)",
    "rbr_ladder": "the order of its answers under a rulebook",
    "meta_judged": "the order of its own judgments, as it judges them itself",
    "human": "people's preferences",
    "import": "an imported preference set",
}
"""What a builder's pairs are, in words."""
DROPPED = ("dropped: ", "rejected: ")
LAST_STAGE = "50-evaluate"


def shown(policy: str) -> str:
    """How a policy is called in print."""
    return SHOWN.get(policy, policy)


def lede(found: Mapping[str, Any]) -> str:
    """What the run did, in a sentence or two; empty where it is not known."""
    run, stages = found["run"], list(found["seconds_by_stage"])
    if not run["model"] or not run["constitution"]:
        return ""
    count = len(run["constitution"]["principles"])
    principles = f"the constitution “{run['constitution']['name']}” ({count} principle{'' if count == 1 else 's'})"
    builders = run["builders"] or {"judged": 1.0}
    learnt = LEARNT[run["optimizer"]].format(preferences=listed([PREFERENCES[name] for name in builders]))
    how = f"{BEGAN[run['start']]}{learnt}."
    alone = "" if {"human", "import"} & builders.keys() else " without human labels"
    if LAST_STAGE in stages:
        return f"{run['model']['path']} was taught {principles}{alone}: {how}"
    stopped = f"The run is not finished; the last stage done is {stages[-1]}." if stages else "No stage is finished yet."
    return f"{run['model']['path']} is to be taught {principles}{alone}: {how} {stopped}"


def listed(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def story(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(topic, sentences) in reading order, at most eleven, from an `evidence` object; what was not measured is left out."""
    return [
        *_truth(found["truth"], found["prompts"]),
        *_suites(found["suites"]),
        *_judged(found["judge"]),
        *_tax(found["tax"]),
        *_texts(found["text"]),
        *_data(found["funnel"]),
        *_labels(found["labels"], found["audit"]),
        *_training(found["reward"], found["health"]),
        *_cost(found),
    ]


def policies(section: Mapping[str, Any]) -> list[str]:
    """The policies of `truth` or `text.policies`, base first."""
    return [name for name in section if name != "differences"]


def drops(counts: Mapping[str, int]) -> dict[str, int]:
    """Reason -> rows, of one stage's counts."""
    return {name.split(": ", 1)[1]: rows for name, rows in counts.items() if name.startswith(DROPPED) and rows}


def _truth(truth: Mapping[str, Any] | None, prompts: int | None) -> Iterator[tuple[str, str]]:
    if not truth:
        return
    names = policies(truth)
    first, last = names[0], names[-1]
    steps = ", ".join(f"{shown(name)} {percent(truth[name]['adherence']['value'])}" for name in names)
    yield (
        "Adherence",
        f"By ground truth on {prompts} held-out prompts, answers keep the principles that apply: {steps} "
        f"(mean over principles, sampled answers).",
    )
    if first == last:
        return
    gain = truth["differences"][f"{last}-{first}"]
    by_principle = {name: e for name, e in gain["adherence_by_principle"].items() if e["value"] is not None}
    if len(by_principle) > 1:
        best = max(by_principle, key=lambda name: by_principle[name]["value"])
        least = min(by_principle, key=lambda name: by_principle[name]["value"])
        now = truth[last]["adherence_by_principle"][least]["value"]
        yield (
            "Principles",
            f"{shown(last)} differs from {shown(first)} by {points(gain['adherence']['value'])} points (95 % interval "
            f"{points_interval(gain['adherence'])}); “{best}” changed by {points(by_principle[best]['value'])}, "
            f"“{least}” by only {points(by_principle[least]['value'])}, to {percent(now)}.",
        )
    if gain["knowledge"]["value"] is not None:
        yield "Knowledge", _knowledge(truth[first]["knowledge"], truth[last]["knowledge"], gain["knowledge"])
    if refusals := " ".join(_refusals(truth[first], truth[last])):
        yield "Refusals", refusals


def _suites(suites: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    if suites and (sentence := suites_sentence(suites, shown)):
        yield "Suites", sentence


def _refusals(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    if after["dangerous_complied"]["value"] is not None:
        yield (
            f"Dangerous requests were complied with {percent(before['dangerous_complied']['value'])} of the time before and "
            f"{percent(after['dangerous_complied']['value'])} after (95 % interval {interval(after['dangerous_complied'])}); "
            f"{percent(after['dangerous_explained']['value'])} are now refused with an explanation."
        )
    if after["benign_refused"]["value"] is not None:
        yield (
            f"Harmless requests that look dangerous are refused {percent(after['benign_refused']['value'])} of the time "
            f"(before {percent(before['benign_refused']['value'])}; {after['benign_refused']['n']} prompts)."
        )


def _knowledge(before: Mapping[str, Any], after: Mapping[str, Any], change: Mapping[str, Any]) -> str:
    if change["high"] < 0:
        verdict = "an alignment tax"
    elif change["low"] > 0:
        verdict = "a gain"
    else:
        verdict = "no change that this many prompts can show"
    return (
        f"The fact asked for is right in {percent(before['value'])} of base answers and {percent(after['value'])} after: "
        f"{points(change['value'])} points ({points_interval(change)}), {verdict}."
    )


def _judged(judge: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    pair = next((pair for pair in reversed(judge["comparisons"] if judge else ()) if pair.endswith("-base")), None)
    if not judge or pair is None or judge["comparisons"][pair]["pooled"]["win_rate"]["value"] is None:
        return
    comparison = judge["comparisons"][pair]
    rates = {name: rate["win_rate"] for name, rate in comparison["by_principle"].items() if rate["win_rate"]["value"] is not None}
    best = max(rates, key=lambda name: rates[name]["value"])
    least = min(rates, key=lambda name: rates[name]["value"])
    pooled, rate, equal = comparison["pooled"], comparison["pooled"]["win_rate"], comparison["pooled"].get("length_controlled")
    controlled = f"; at equal length {percent(equal['value'])}" if equal else ""
    yield (
        "Judge",
        f"The AI judge prefers {shown(pair.split('-')[0])} to base on {percent(rate['value'])} of prompts ({interval(rate)}; of "
        f"{rate['n']}, {pooled['ties']} tied, counting half{controlled}), most under “{best}” ({percent(rates[best]['value'])}), "
        f"least under “{least}” ({percent(rates[least]['value'])}).",
    )


def _tax(tax: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    if not tax:
        return
    final = list(tax["over_refusal"])[-1]
    of, refused = tax["differences"][f"{final}-base"], tax["over_refusal"][final]
    if (worst := of["worst"]) is None:
        return
    beside = f"; over-refusal stands at {percent(refused['value'])}" if refused and refused["value"] is not None else ""
    mean = f", {points(of['mean_over_regressions']).lstrip('+')} points on average" if of["regressions"] else ""
    yield (
        "Tax",
        f"Benchmarks that lose: {of['regressions']} of {len(of['tasks'])}{mean}; the worst is “{worst['task']}” with "
        f"{points(worst['drop']['value']).lstrip('+')} ({points_interval(worst['drop'])}; {worst['right_to_wrong']} items went "
        f"wrong, {worst['wrong_to_right']} right){beside}.",
    )


def _texts(text: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    if not text:
        return
    names = policies(text["policies"])
    first, last = text["policies"][names[0]], text["policies"][names[-1]]
    if first["words"]["mean"] is None or last["words"]["mean"] is None:
        return
    phrase = next(iter(text["boilerplate"].get(names[-1], ())), None)
    sentence = (
        f"Answers went from {number(first['words']['mean'], 1)} to {number(last['words']['mean'], 1)} words on average, "
        f"distinct bigrams from {percent(first['distinct_2'])} to {percent(last['distinct_2'])}"
    )
    if phrase:
        sentence += (
            f"; the phrase that spread most, “{phrase['phrase']}”, from {percent(phrase['base'])} to {percent(phrase['later'])}"
        )
    yield "Text", f"{sentence}."


def _data(funnel: Mapping[str, Mapping[str, int]]) -> Iterator[tuple[str, str]]:
    sentences = []
    if revise := funnel.get("10-revise"):
        sentences.append(
            f"{_rows(revise, 'prompts')} prompts became {_rows(revise, 'kept')} revised answers to train on{_why(revise)}."
        )
    if pairs := funnel.get("30-pairs"):
        candidates = sum(count for name, count in pairs.items() if name.split(" (")[0] == "candidates")
        became = f"{number(candidates)} candidates became" if candidates else "There are"
        sentences.append(f"{became} {_rows(pairs, 'kept')} preferences{_why(pairs)}.")
    if sentences:
        yield "Data", " ".join(sentences)


def _labels(labels: Mapping[str, Any] | None, audit: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    audited = f" {audit_sentences(audit)}" if audit else ""
    if not labels or not labels["preferences"]:
        if audited:
            yield "Labels", audited.strip()
        return
    sentences = []
    by_judge = ("judged", "meta_judged")
    others = [f"{number(of['preferences'])} by {name}" for name, of in labels["by_builder"].items() if name not in by_judge]
    if judged := labels["by_builder"].get("judged"):
        histogram = judged["histogram"]
        sure = sum(n for edge, n in zip(histogram["edges"], histogram["counts"], strict=False) if edge >= 0.9)
        of = "its" if len(labels["by_builder"]) > 1 else "the"
        sentence = f"The judge is at least 90 % sure of {percent(sure / judged['preferences'])} of {of} preferences"
        sentence += f" (mean p {number(judged['mean_p'])})"
        if labels["position_logit"] is not None:
            logit = number(labels["position_logit"])
            sentence += f"; standing first pulled it by {logit} logits, which judging both orders takes out"
        sentences.append(f"{sentence}.")
    if (meta := labels["meta"]) and (of_judgments := labels["by_builder"].get("meta_judged")):
        sentences.append(
            f"{number(of_judgments['preferences'])} more are of its own judgments, from {number(meta['judgments'])} comparisons "
            f"of them; the one shown first won {percent(meta['first_wins'])}."
        )
    if others:
        sentences.append(f"Made without a judge: {listed(others)}.")
    yield "Labels", f"{' '.join(sentences)}{audited}"


def _training(reward: Mapping[str, Any] | None, health: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    if verdicts := [part["verdict"] for part in (reward, health) if part]:
        yield "Training", " ".join(verdicts)


def _rows(counts: Mapping[str, int], name: str) -> str:
    return number(counts.get(name))


def _why(counts: Mapping[str, int]) -> str:
    reasons = drops(counts)
    if not reasons:
        return ""
    commonest = max(reasons, key=lambda reason: reasons[reason])
    return f" (dropped on the way: {number(sum(reasons.values()))}, most for “{commonest}”)"


def _cost(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if found["seconds_by_stage"]:
        cost = found["cost"]
        paid = "money whose amount is not known" if cost["usd"] is None else f"${cost['usd']:.2f}"
        yield (
            "Cost",
            f"The run took {duration(sum(found['seconds_by_stage'].values()))}, {number(cost['tokens'])} tokens of answers and "
            f"{number(cost['judge_tokens'])} of judging, and {paid}.{_per_preference(cost['per_preference'])}",
        )


def _per_preference(cost: Mapping[str, Any] | None) -> str:
    if cost is None:
        return ""
    return f" A preference took {number(cost['tokens'], 0)} tokens of judging, {dollars(cost['usd'])}."
