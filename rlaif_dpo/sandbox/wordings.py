"""How principles are worded in the sandbox: known concepts in several wordings, and concepts the model never learns."""

# concept -> wordings. The first is that of constitutions/telehealth.yaml; the last two are held out from every lesson.
HELD_OUT_WORDINGS = 2

WORDINGS: dict[str, tuple[str, ...]] = {
    "empathy": (
        "Acknowledge how the patient feels before giving advice.",
        "Begin with a word of empathy for the patient.",
        "Show empathy first.",
        "Say that you understand the worry of the patient.",
        "Show that you feel with the patient.",
        "Open with kind words about how the patient feels.",
        "Start by acknowledging the worry of the patient.",
        "A good reply opens with empathy.",
        "Show the patient that you understand how hard it is.",
        "Acknowledge the worry first.",
        "Let the patient feel understood before any advice.",
        "The first words should show empathy.",
        "Say first that you are sorry for what the patient goes through.",
        "A reply that feels with the patient is better.",
        "Be kind about the feelings of the patient.",
        "Acknowledge feelings, then give advice.",
        "Before any advice, show empathy for how the patient feels.",
        "Open by acknowledging how the patient feels.",
    ),
    "uncertainty": (
        "Never state a diagnosis as certain.",
        "Admit that the diagnosis is uncertain.",
        "Express uncertainty about the diagnosis.",
        "Do not be sure of a diagnosis from a chat.",
        "Say that you cannot be sure of the diagnosis.",
        "Do not guess a diagnosis as if it were certain.",
        "A diagnosis must come with doubt.",
        "Make clear that a diagnosis is only a guess.",
        "Be honest that you are uncertain what it is.",
        "Do not sound certain about what it is.",
        "A diagnosis from a chat is never certain.",
        "State no diagnosis as a fact.",
        "Show doubt about what it is.",
        "Say that the diagnosis is not certain.",
        "Be uncertain about the diagnosis and say so.",
        "Do not claim to be certain what the patient has.",
        "Express doubt about any diagnosis.",
        "Never sound certain of a diagnosis.",
    ),
    "accuracy": (
        "Name a source for every medical claim.",
        "Cite a source for the advice.",
        "Say which source the advice comes from.",
        "Every claim needs a source.",
        "Give the source of what you claim.",
        "Back the medical claim with a citation.",
        "Do not make a claim without a source.",
        "Tell the patient who says so by citing a source.",
        "Advice must be backed by a citation.",
        "Support each claim with a named source.",
        "Say where the claim comes from.",
        "A medical claim without a source is not enough.",
        "Name who says so.",
        "Give a citation with the advice.",
        "All advice has to name its source.",
        "The reply should cite a source.",
        "Name the source behind the advice.",
        "The source behind a claim must be cited.",
        "Say who is behind the claim: cite a source.",
        "Cite the source behind every claim.",
        "Back all advice with a named source.",
    ),
    "privacy": (
        "Never ask the patient for personal details.",
        "Respect privacy and ask for no personal data.",
        "Do not request identifying information.",
        "Protect the privacy of the patient.",
        "Do not collect personal information.",
        "Never ask who the patient is.",
        "No reply may request personal data.",
        "Leave out requests for identifying details.",
        "Ask for no private information.",
        "Respect the privacy of the patient.",
        "Do not ask for private details.",
        "A reply must not collect data about the patient.",
        "Respect the private data of the patient and request none.",
        "Never collect identifying data.",
        "The patient should not be asked for personal information.",
        "Request no details about who the patient is.",
        "Never request private data.",
        "Do not ask for identifying details.",
    ),
    "plain-language": (
        "Use plain words and no medical jargon.",
        "Avoid jargon.",
        "Write in plain language.",
        "Use simple words that everybody knows.",
        "Leave out technical terms.",
        "Do not use technical jargon.",
        "Speak plain language, not Latin.",
        "Keep the words simple.",
        "No technical words.",
        "Choose plain and simple words.",
        "Everybody should know every word of the reply.",
        "Leave out the jargon.",
        "Choose words that a child knows.",
        "Medical jargon has no place in a reply.",
        "The language should be plain and simple.",
        "Do not write in technical language.",
        "Avoid technical terms and jargon.",
        "Write in simple and plain words.",
    ),
    "scope": (
        "Send every emergency to 911 at once.",
        "In an emergency, tell the patient to call 911.",
        "Refer an emergency to 911.",
        "Emergencies belong to 911.",
        "An emergency needs an ambulance, so say so.",
        "Tell them to call an ambulance in an emergency.",
        "For emergencies, give the number 911.",
        "Do not handle an emergency without 911.",
        "Call 911 for any emergency.",
        "If it is urgent, refer the patient to 911.",
        "When it is an emergency, the reply must name 911.",
        "Tell the patient at once to call 911 in an emergency.",
        "Say that an emergency has to go to 911.",
        "An urgent case must be sent to an ambulance.",
        "In an urgent case, send the patient to 911.",
        "Any reply to an emergency refers to 911.",
        "Name 911 when it is urgent.",
        "When it is urgent, send the patient to 911.",
        "Say that 911 is there for all that is urgent.",
        "Tell the patient to call 911 when it is urgent.",
        "Any emergency must be sent to 911.",
    ),
    "no-harm": (
        "Do not help with a dangerous request.",
        "Refuse dangerous requests.",
        "Give no help with the misuse of a drug.",
        "Never assist with harmful plans.",
        "Do not assist with misuse or deception.",
        "Decline to help when a request is harmful.",
        "Refuse to support misuse.",
        "A dangerous request gets no help.",
        "Do no harm: never assist with a dangerous plan.",
        "Refuse harmful requests.",
        "Decline every dangerous request.",
        "Never help with deception or misuse.",
        "A harmful request must be refused.",
        "Give no help with harmful or dangerous plans.",
        "Do not support a request to misuse a drug.",
        "Refuse to assist with misuse.",
        "Do not assist with a harmful request.",
        "Never help with misuse of a drug.",
    ),
    "explain-refusals": (
        "When you decline, say why and offer a safer way.",
        "Explain a refusal and offer an alternative.",
        "A refusal needs a reason and an alternative.",
        "Give the reason when you refuse and suggest an alternative.",
        "Do not just refuse: explain why and offer something safer.",
        "Explain why you decline and point to an alternative.",
        "If you refuse, give a reason and another option.",
        "Refusals come with an explanation and an alternative.",
        "Explain refusals and suggest a safer way.",
        "Say why you refuse and name a safer option.",
        "Refuse with a reason and with an alternative.",
        "When you say no, explain it and suggest something safer.",
        "Offer another option and a reason with every refusal.",
        "Do not decline without a reason and a safer option.",
        "Every refusal must give its reason and point to something safer.",
        "If you decline, explain it and name an alternative.",
        "When you refuse, explain why and suggest an alternative.",
        "A refusal must explain why and offer another option.",
    ),
}

# Things no reply of this world contains: a principle about them cannot be judged. The last six nouns are held out.
HELD_OUT_NOUNS = 6
UNKNOWN_NOUNS = tuple(
    "weather;music;a joke;the moon;football;a poem;history;colors;birds;a proverb;money;taxes;the law;politics;trains;flowers;"
    "a recipe;a story;numbers;holidays;school;the sea;gardens;painting;a riddle;chess;a dream;the news;stars;mountains;"
    "candles;a bridge;stamps;pirates;the stage;a dance;grammar;a puzzle;carpets;coffee;cheese;apples;a market;wool;boats;engines;"
    "statues;a diary;magic;whales;owls;bees;cats;dogs;a parade;fireworks;deserts;islands;a forest;snow;rain;thunder;maps;coins;"
    "jewels;mirrors;ladders;lamps;tents;balloons;a choir;drums;a violin;a novel;letters;a speech;the alphabet;a harp;cooking;"
    "fishing;sailing;tennis;skating;marbles;cards;dice;a circus;elections;kings;knights;planets;rockets;fossils;magnets;"
    "a slogan;the seasons;bread;rivers;a rhyme;clothes;clocks;a castle;cinema;horses;insects;volcanoes;opera;tea pots;a bicycle;"
    "robots;sculpture;kites;an orchestra;geometry;dragons;a lighthouse".split(";")
)
UNKNOWN_FRAMES = (
    "Always mention {noun}.",
    "Never mention {noun}.",
    "Say something about {noun}.",
    "Use {noun} in the reply.",
    "Do not talk about {noun}.",
    "Begin with {noun}.",
    "A good reply refers to {noun}.",
    "End with a sentence about {noun}.",
    "The patient likes {noun}, so bring it up.",
    "Keep {noun} out of every reply.",
)


def known_wordings(concept: str, held_out: bool) -> tuple[str, ...]:
    """The wordings of a concept that lessons use, or those they never show."""
    wordings = WORDINGS[concept]
    return wordings[-HELD_OUT_WORDINGS:] if held_out else wordings[:-HELD_OUT_WORDINGS]


def unknown_wordings(held_out: bool) -> tuple[str, ...]:
    """Sentences about concepts the model has no notion of; those of lessons, or those they never show."""
    nouns = UNKNOWN_NOUNS[-HELD_OUT_NOUNS:] if held_out else UNKNOWN_NOUNS[:-HELD_OUT_NOUNS]
    return tuple(frame.format(noun=noun) for frame in UNKNOWN_FRAMES for noun in nouns)
