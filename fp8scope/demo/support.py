"""Replies of a support desk to angry customers: written for this demo, put together by seed."""

from __future__ import annotations

import random

OPENINGS = (
    "I am truly sorry about {problem}.",
    "I apologise for {problem}, and I understand why you are angry.",
    "You are right to be upset about {problem}.",
    "Thank you for telling us about {problem}; that should never have happened.",
    "I can hear how frustrating {problem} has been, and I am sorry.",
    "Please accept my sincere apology for {problem}.",
)
PROBLEMS = (
    "the late delivery of your {item}",
    "the broken {item} that you received",
    "being charged twice for your {item}",
    "the long wait on the phone about your {item}",
    "the wrong {item} in your parcel",
    "the cancelled order for your {item}",
    "the scratches on your new {item}",
    "the missing parts of your {item}",
)
ITEMS = (
    *("kettle", "headphones", "office chair", "camera", "blender", "bicycle", "lamp", "laptop"),
    *("vacuum cleaner", "coffee machine", "printer", "suitcase", "keyboard", "tent", "heater"),
)
CAUSES = (
    "Our warehouse mixed up two labels on {day}.",
    "The carrier lost the parcel on {day} and did not tell us.",
    "A fault in our payment system on {day} sent the charge a second time.",
    "I have read all your messages since {day}, and nobody answered them.",
    "The item was packed without enough padding on {day}.",
    "This was our mistake, and nothing that you did on {day} caused it.",
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
REMEDIES = (
    "I have issued a full refund of ${amount}, which you will see within {count} working days.",
    "A replacement left our warehouse today, and the refund for shipping, ${amount}, is on its "
    "way.",
    "I have sent a refund of ${amount} to your card and cancelled the second charge.",
    "You may keep the item; the refund of ${amount} will reach you in {count} days.",
    "I have asked for a courier to collect it free of charge, and your refund of ${amount} "
    "follows.",
)
CLOSINGS = (
    "If anything is still wrong, reply to this message and it comes straight to me.",
    "You should not have had to write {count} times; I will follow this up myself.",
    "I know that this does not give you back your time, and I am sorry for that.",
    "Please tell me if there is anything else that I can put right today.",
    "I will call you on {day} to make sure that it has arrived.",
)
SIGNATURES = ("Kind regards", "With apologies", "Sincerely", "Yours", "Best wishes")
NAMES = ("Amina", "Jonas", "Priya", "Marta", "Tom", "Yuki", "Elena", "Samuel", "Chloe", "Omar")


def replies(count: int, seed: int) -> list[str]:
    """`count` replies, the same for the same seed."""
    dice = random.Random(seed)  # noqa: S311
    return [_reply(dice) for _ in range(count)]


def _reply(dice: random.Random) -> str:
    problem = dice.choice(PROBLEMS).format(item=dice.choice(ITEMS))
    parts = [
        f"Dear {dice.choice(NAMES)},",
        dice.choice(OPENINGS).format(problem=problem),
        _filled(dice, CAUSES),
        _filled(dice, REMEDIES),
        *(_filled(dice, CLOSINGS) for _ in range(dice.randint(1, 2))),
        f"{dice.choice(SIGNATURES)}, {dice.choice(NAMES)}, customer support",
    ]
    return " ".join(parts)


def _filled(dice: random.Random, sentences: tuple[str, ...]) -> str:
    values = {
        "day": dice.choice(DAYS),
        "amount": f"{dice.randint(5, 480)}.{dice.randint(0, 99):02}",
        "count": dice.choice(("two", "three", "four", "five")),
    }
    return dice.choice(sentences).format(**values)
