"""Made-up texts with things in them that detectors should find, and with things that only look alike.

Nothing here is shared with the detectors: check digits are worked out below, from each number's own
definition. Everything follows from a seed. A document's `things` are the spans that hold something.
"""

from __future__ import annotations

import base64
import random
import string
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

Draw = Callable[[random.Random], str]


@dataclass(frozen=True, slots=True)
class Thing:
    kind: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Document:
    text: str
    things: tuple[Thing, ...]
    about: str  # what the document was made to hold; a name of HARD_NEGATIVES for one that holds nothing


def digits(r: random.Random, count: int) -> str:
    return "".join(r.choice(string.digits) for _ in range(count))


def luhn_digit(body: str) -> str:
    total = 0
    for place, digit in enumerate(reversed(body)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


def grouped(number: str, sizes: tuple[int, ...], separator: str) -> str:
    parts, at = [], 0
    for size in sizes:
        parts.append(number[at : at + size])
        at += size
    return separator.join(parts)


def card(r: random.Random) -> str:
    prefix, length = r.choice(
        [("4", 16), ("51", 16), ("55", 16), ("2221", 16), ("2720", 16), ("34", 15), ("37", 15), ("6011", 16),
         ("3530", 16), ("36", 14), ("62", 16)]
    )  # fmt: skip
    body = prefix + digits(r, length - len(prefix) - 1)
    number = body + luhn_digit(body)
    shapes = {16: (4, 4, 4, 4), 15: (4, 6, 5), 14: (4, 6, 4)}
    return r.choice(
        [number, grouped(number, shapes[length], " "), grouped(number, shapes[length], "-"),
         grouped(number, shapes[length], "\u00a0"), grouped(number, shapes[length], "\u2011")]
    )  # fmt: skip


IBAN_COUNTRIES = {"DE": 18, "FR": 23, "NL": 14, "ES": 20, "IT": 23, "GB": 18, "PL": 24, "BE": 12, "AT": 16,
                  "CH": 17, "SE": 20, "NO": 11, "MT": 27}  # fmt: skip
IBAN_LETTERS = {"NL": 4, "GB": 4, "MT": 4}
IBAN_CHECK_LETTER = {"IT": 1}


def iban(r: random.Random) -> str:
    country = r.choice(sorted(IBAN_COUNTRIES))
    letters = IBAN_LETTERS.get(country, 0) or IBAN_CHECK_LETTER.get(country, 0)
    bban = "".join(r.choice(string.ascii_uppercase) for _ in range(letters))
    bban += digits(r, IBAN_COUNTRIES[country] - letters)
    as_number = "".join(str(int(char, 36)) for char in f"{bban}{country}00")
    number = f"{country}{98 - int(as_number) % 97:02d}{bban}"
    spaced = " ".join(number[at : at + 4] for at in range(0, len(number), 4))
    return r.choice([number, spaced, spaced.replace(" ", "\u202f")])


def date(r: random.Random, first: int = 1930, last: int = 2009) -> tuple[int, int, int]:
    return r.randint(first, last), r.randint(1, 12), r.randint(1, 28)


def nir(r: random.Random) -> str:
    year, month, _ = date(r)
    body = f"{r.choice('12')}{year % 100:02d}{month:02d}{r.randint(1, 19):02d}{r.randint(1, 300):03d}"
    body += f"{r.randint(1, 600):03d}"
    number = body + f"{97 - int(body) % 97:02d}"
    return r.choice([number, grouped(number, (1, 2, 2, 2, 3, 3, 2), " "), grouped(number, (13, 2), " ")])


def bsn(r: random.Random) -> str:
    while True:
        body = f"{r.randint(10_000_000, 99_999_999)}"
        check = sum(int(digit) * weight for digit, weight in zip(body, range(9, 1, -1), strict=True)) % 11
        if check < 10:
            number = f"{body}{check}"
            return r.choice([number, grouped(number, (4, 2, 3), "."), grouped(number, (3, 3, 3), " ")])


def idnr(r: random.Random) -> str:
    double = r.choice(string.digits)
    rest = r.sample([digit for digit in string.digits if digit != double], 8)
    while True:
        body = [double, double, *rest]
        r.shuffle(body)
        if body[0] != "0":
            break
    product = 10
    for digit in body:
        total = (int(digit) + product) % 10 or 10
        product = total * 2 % 11
    number = "".join(body) + str((11 - product) % 10)
    return r.choice([number, grouped(number, (2, 3, 3, 3), " ")])


DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"


def dni(r: random.Random) -> str:
    body = digits(r, 8)
    letter = DNI_LETTERS[int(body) % 23]
    return r.choice([f"{body}{letter}", f"{body}-{letter}", f"{grouped(body, (2, 3, 3), '.')}-{letter}"])


def nie(r: random.Random) -> str:
    first, body = r.choice("XYZ"), digits(r, 7)
    letter = DNI_LETTERS[int(str("XYZ".index(first)) + body) % 23]
    return r.choice([f"{first}{body}{letter}", f"{first}-{body}-{letter}"])


CF_ODD = dict(zip(string.digits + string.ascii_uppercase, [
    1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14,
    16, 10, 22, 25, 24, 23], strict=True))  # fmt: skip


def codice_fiscale(r: random.Random) -> str:
    consonants = "BCDFGLMNPRSTVZ"
    year, _, day = date(r)
    body = "".join(r.choice(consonants) for _ in range(6)) + f"{year % 100:02d}{r.choice('ABCDEHLMPRST')}"
    body += f"{day + r.choice([0, 40]):02d}{r.choice('ABCDEFGHILM')}{r.randint(1, 999):03d}"
    total = sum(
        CF_ODD[char] if place % 2 == 0 else (int(char) if char.isdigit() else ord(char) - 65)
        for place, char in enumerate(body)
    )
    return body + chr(65 + total % 26)


def nhs(r: random.Random) -> str:
    while True:
        body = r.choice("467") + digits(r, 8)
        total = sum(int(digit) * weight for digit, weight in zip(body, range(10, 1, -1), strict=True))
        check = 11 - total % 11
        if check != 10:
            number = body + str(check % 11)
            return r.choice([number, grouped(number, (3, 3, 4), " ")])


def nino(r: random.Random) -> str:
    while True:
        prefix = r.choice("ABCEGHJKLMNOPRSTWXYZ") + r.choice("ABCEGHJKLMNPRSTWXYZ")
        if prefix not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ"):
            break
    body, suffix = digits(r, 6), r.choice("ABCD")
    return r.choice([f"{prefix}{body}{suffix}", f"{prefix} {grouped(body, (2, 2, 2), ' ')} {suffix}"])


def personnummer(r: random.Random) -> str:
    year, month, day = date(r)
    body = f"{year % 100:02d}{month:02d}{day:02d}{r.randint(1, 999):03d}"
    number = body + luhn_digit(body)
    century = str(year)[:2]
    return r.choice([f"{number[:6]}-{number[6:]}", f"{century}{number[:6]}-{number[6:]}", number,
                     f"{century}{number}"])  # fmt: skip


def pesel(r: random.Random) -> str:
    year, month, day = date(r)
    body = f"{year % 100:02d}{month + (20 if year >= 2000 else 0):02d}{day:02d}{digits(r, 4)}"
    total = sum(int(digit) * weight for digit, weight in zip(body, (1, 3, 7, 9) * 3, strict=False))
    return body + str(-total % 10)


def rijksregister(r: random.Random) -> str:
    year, month, day = date(r)
    body = f"{year % 100:02d}{month:02d}{day:02d}{r.randint(1, 997):03d}"
    check = 97 - int(("2" if year >= 2000 else "") + body) % 97
    number = f"{body}{check:02d}"
    return r.choice([number, f"{grouped(number[:6], (2, 2, 2), '.')}-{number[6:9]}.{number[9:]}"])


def ssn(r: random.Random) -> str:
    area = r.choice([area for area in range(1, 750) if area not in (666,)])
    number = f"{area:03d}-{r.randint(1, 99):02d}-{r.randint(1, 9999):04d}"
    return ssn(r) if number == "078-05-1120" else number


def ahv(r: random.Random) -> str:
    body = "756" + digits(r, 9)
    total = sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(body))
    number = body + str(-total % 10)
    return r.choice([number, grouped(number, (3, 4, 4, 2), ".")])


NAMES = ["ada", "grace.hopper", "j.müller", "marie-curie", "o'neill", "info", "sales+eu", "x_y", "ana.lópez"]
HOSTS = ["example.org", "mail.example.co.uk", "firma.example", "sub-domain.example.com", "exämple.de"]


def email(r: random.Random) -> str:
    return f"{r.choice(NAMES)}@{r.choice(HOSTS)}"


# National parts that are in use, by country: numbering plans as their regulators publish them.
PLANS: list[tuple[str, str, Callable[[random.Random], str]]] = [
    ("49", "0", lambda r: f"{r.choice(['30', '89', '40'])} {r.randint(2_000_000, 8_999_999)}"),
    ("49", "0", lambda r: f"{r.choice(['151', '171', '160'])} {r.randint(20_000_000, 29_999_999)}"),
    ("33", "0", lambda r: f"6 {grouped(digits(r, 8), (2, 2, 2, 2), ' ')}"),
    ("44", "0", lambda r: f"20 7{digits(r, 3)} {digits(r, 4)}"),
    ("31", "0", lambda r: f"6 {r.randint(11_000_000, 19_999_999)}"),
    ("1", "", lambda r: f"212-{r.randint(550, 559)}-{digits(r, 4)}"),
]


def international(r: random.Random) -> str:
    code, _, national = r.choice(PLANS)
    written = f"+{code} {national(r)}"
    return r.choice([written, written.replace(" ", "-"), written.replace(" ", ""), f"00{written[1:]}"])


def german(r: random.Random) -> str:
    _, trunk, national = r.choice(PLANS[:2])
    written = trunk + national(r)
    return r.choice([written, written.replace(" ", "/"), written.replace(" ", "-")])


def phone(r: random.Random) -> str:
    return (
        f"{r.choice(['Tel.', 'phone:', 'mobile', 'call', 'Telefon'])} {r.choice([international, german])(r)}"
    )


ALPHANUMERIC = string.ascii_letters + string.digits


def drawn(r: random.Random, count: int, alphabet: str = ALPHANUMERIC) -> str:
    return "".join(r.choice(alphabet) for _ in range(count))


def base64url(r: random.Random, count: int) -> str:
    return base64.urlsafe_b64encode(r.randbytes(count)).decode().rstrip("=")


def jwt(r: random.Random) -> str:
    head = base64.urlsafe_b64encode(b'{"alg":"RS256","typ":"JWT"}').decode().rstrip("=")
    return f"{head}.eyJ{base64url(r, 60)}.{base64url(r, 64)}"


def private_key(r: random.Random) -> str:
    name = r.choice(["RSA ", "EC ", "", "OPENSSH ", "ENCRYPTED "])
    body = base64.b64encode(r.randbytes(300)).decode()
    lines = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
    return f"-----BEGIN {name}PRIVATE KEY-----\n{lines}\n-----END {name}PRIVATE KEY-----"


def aws_key(r: random.Random) -> str:
    return r.choice(["AKIA", "ASIA"]) + drawn(r, 16, string.ascii_uppercase + "234567")


def api_token(r: random.Random) -> str:
    return r.choice(
        [
            f"gh{r.choice('pousr')}_{drawn(r, 36)}",
            f"xoxb-{digits(r, 12)}-{digits(r, 12)}-{drawn(r, 24)}",
            f"sk-proj-{drawn(r, 48)}",
            f"glpat-{drawn(r, 20)}",
            f"sk_live_{drawn(r, 24)}",
            f"AIza{drawn(r, 35)}",
        ]
    )


def password(r: random.Random) -> str:
    """The value alone: `NAMED` gives it the name before it."""
    return drawn(r, r.randint(10, 24), ALPHANUMERIC + "!#%&+-_") + r.choice(string.digits)


KINDS: dict[str, Draw] = {
    "iban": iban, "card": card, "email": email, "phone": phone, "fr-nir": nir, "nl-bsn": bsn, "de-idnr": idnr,
    "es-dni": dni, "es-nie": nie, "it-codice-fiscale": codice_fiscale, "gb-nhs": nhs, "gb-nino": nino,
    "se-personnummer": personnummer, "pl-pesel": pesel, "be-nn": rijksregister, "us-ssn": ssn, "ch-ahv": ahv,
    "private-key": private_key, "aws-key": aws_key, "api-token": api_token, "jwt": jwt, "password": password,
}  # fmt: skip

# What introduces a thing. Numbers that chance often makes valid count only beside a word; passwords have one.
NAMED: dict[str, list[str]] = {
    "nl-bsn": ["BSN: ", "burgerservicenummer ", "BSN", '{"bsn": "', "bsn="],
    "gb-nhs": ["NHS number ", "NHS no. ", "NHS: "],
    "se-personnummer": ["personnummer ", "Personnr: ", "pnr "],
    "password": ["password = ", "Password: ", 'api_key="', "DB_PASSWORD=", '"secret": "', "token: "],
}
INTRODUCTIONS = ["", "It is ", "see: ", "(", "ref=", "\n- ", "Betreff: ", "→ ", "value,", "“", '{"value": "']
PROSE = [
    "The committee met on Tuesday and agreed on most of the plan.",
    "Wir melden uns, sobald die Unterlagen vollständig vorliegen.",
    "Merci de traiter cette demande avant la fin du mois.",
    "De vergadering is verplaatst naar 14:30 in zaal 3.",
    "In 2024 revenue grew by 12.5 % to 1,234,567.89 EUR.",
    "Le proposte sono state approvate l'11 marzo.",
]


def moment(r: random.Random) -> float:
    """Seconds since 1970, of the last years."""
    return r.randint(1_600_000_000, 1_799_999_999)


def wrong_card(r: random.Random) -> str:
    """One digit of a card is another."""
    body = "4" + digits(r, 14)
    return grouped(body + str((int(luhn_digit(body)) + r.randint(1, 9)) % 10), (4, 4, 4, 4), " ")


def wrong_iban(r: random.Random) -> str:
    """Two neighbours have changed places."""
    number = iban(r).replace(" ", "").replace("\u202f", "")
    at = next((at for at in range(6, len(number) - 1) if number[at] != number[at + 1]), 2)
    return number[:at] + number[at + 1] + number[at] + number[at + 2 :]


HARD_NEGATIVES: dict[str, Draw] = {
    "order number": lambda r: f"order {digits(r, r.choice([8, 9, 10, 12]))}",
    "invoice": lambda r: f"INV-{r.randint(2019, 2026)}-{digits(r, r.choice([6, 8, 9]))}",
    "timestamp": lambda r: f"at {moment(r):.0f}{r.choice(['', digits(r, 3), digits(r, 6)])}",
    "minute": lambda r: time.strftime("%Y%m%d%H%M", time.gmtime(moment(r))),
    "iso time": lambda r: time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(moment(r))) + f"{digits(r, 6)}Z",
    "uuid": lambda r: str(uuid.UUID(int=r.getrandbits(128), version=4)),
    "hexadecimal": lambda r: f"{r.getrandbits(160):040x}",
    "version": lambda r: f"v{r.randint(1, 20)}.{r.randint(0, 99)}.{r.randint(0, 999)}-build.{digits(r, 8)}",
    "price": lambda r: f"{r.randint(1, 999)}.{digits(r, 3)}.{digits(r, 3)},{digits(r, 2)} EUR",
    "address": lambda r: ".".join(str(r.randint(0, 255)) for _ in range(4)) + f":{r.randint(1, 65535)}",
    "decimal": lambda r: f"{r.random():.17f}",
    "wrong card": lambda r: wrong_card(r),
    "wrong iban": lambda r: wrong_iban(r),
    "sixteen digits": lambda r: f"tracking {digits(r, 16)}",
    "snowflake": lambda r: f"id {r.randint(10**17, 2 * 10**18)}",
    "decorator": lambda r: f"@{r.choice(['Override', 'property', 'media', 'scope/package'])} user@localhost",
    "image": lambda r: f"icon@{r.randint(1, 3)}x.png and git@code.example.com:team/repo.git",
    "part number": lambda r: f"{drawn(r, 2, string.ascii_uppercase)}{digits(r, 4)}-{digits(r, 3)}",
    "parcel": lambda r: f"1Z{drawn(r, 8, string.ascii_uppercase + string.digits)}{digits(r, 8)}",
    "coordinates": lambda r: f"{r.uniform(-90, 90):.7f}, {r.uniform(-180, 180):.7f}",
    "example secret": lambda r: r.choice(["password: <your password>", "api_key=${API_KEY}", "token: string",
                                          "password = os.environ['DB_PASSWORD']", f"sk-{'x' * 24}",
                                          "secret=changeme123", "token = get_token(user_id)"]),
    "public key": lambda r: f"-----BEGIN PUBLIC KEY-----\n{base64.b64encode(r.randbytes(60)).decode()}\n",
    "path": lambda r: f"/users/{digits(r, 9)}/files/{digits(r, 16)}.pdf",
    "isbn": lambda r: f"ISBN 978-{r.randint(0, 9)}-{digits(r, 4)}-{digits(r, 4)}-{r.randint(0, 9)}",
    "sum": lambda r: " + ".join(digits(r, 3) for _ in range(4)),
    "table": lambda r: "\n".join(" ".join(digits(r, 4) for _ in range(3)) for _ in range(3)),
}  # fmt: skip


def with_thing(r: random.Random, kind: str) -> Document:
    """A document that holds one thing of this kind, with prose before and after it."""
    thing = KINDS[kind](r)
    introduction = r.choice(NAMED.get(kind, INTRODUCTIONS))
    closing = {'"': '"', "(": ")", "“": "”"}.get(introduction[-1:], "")
    if introduction.startswith("{"):
        closing += "}"
    before, after = (" ".join(r.sample(PROSE, r.randint(0, 3))) for _ in range(2))
    head = f"{before} " if before and not introduction.startswith("\n") else before
    start = len(head + introduction)
    tail = closing or r.choice(["", ".", ",", "\n", " ", ";", " and"])
    text = f"{head}{introduction}{thing}{tail}" + (f" {after}" if after else "")
    if kind == "password" and not closing:
        text = f"{head}{introduction}{thing}\n{after}"
    return Document(text, (Thing(kind, start, start + len(thing)),), kind)


def with_look_alike(r: random.Random, about: str) -> Document:
    before, after = (" ".join(r.sample(PROSE, r.randint(0, 3))) for _ in range(2))
    return Document(f"{before} {HARD_NEGATIVES[about](r)} {after}", (), about)


def corpus(seed: int, of_each: int) -> list[Document]:
    """`of_each` documents for each kind, and as many for each kind of look-alike."""
    r = random.Random(seed)
    return [
        *(with_thing(r, kind) for kind in KINDS for _ in range(of_each)),
        *(with_look_alike(r, about) for about in HARD_NEGATIVES for _ in range(of_each)),
    ]
