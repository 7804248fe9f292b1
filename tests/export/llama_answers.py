"""Run by a Python that has llama_cpp: reads a job from stdin, writes what llama.cpp makes of it. Not a test itself.

Job: {"gguf", "texts": tokenised, "chats": messages to turn into token ids by the file's template, "prompts": token ids to answer
greedily, "new": tokens, "stops": ids that end an answer, "logits": token ids to read once}.
"""

import json
import sys

from llama_cpp import Llama

job = json.load(sys.stdin)
llama = Llama(job["gguf"], n_ctx=1024, n_threads=1, verbose=False, logits_all=bool(job["logits"]))
stops = set(job["stops"])
chats = []
for messages in job["chats"]:
    done = llama.create_chat_completion(messages, max_tokens=1, temperature=0.0)
    chats.append(list(llama.eval_tokens)[: done["usage"]["prompt_tokens"]])  # half a character may be read on with
answers = []
for prompt in job["prompts"]:
    answer: list[int] = []
    for token in llama.generate(prompt, top_k=1, temp=0.0, repeat_penalty=1.0, reset=True):
        if token in stops or len(answer) == job["new"]:
            break
        answer.append(token)
    answers.append(answer)
logits = []
for ids in job["logits"]:
    llama.reset()
    llama.eval(ids)
    logits.append([[float(value) for value in row] for row in llama.scores[: len(ids)]])
json.dump(
    {
        "tokens": [llama.tokenize(text.encode(), add_bos=True, special=True) for text in job["texts"]],
        "chats": chats,
        "answers": answers,
        "logits": logits,
    },
    sys.stdout,
)
