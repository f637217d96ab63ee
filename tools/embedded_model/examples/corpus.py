"""The corpus that the tokenizer is trained on: sentences about orders, tickets and people, JSON, other languages.

It uses no random numbers: words are taken in strides, so every Python version yields the same text.
"""

from __future__ import annotations

from collections.abc import Iterator

_NOUNS = """
account address agent agreement aisle amount answer apple apology appointment area arm arrival article attempt audit
author autumn award back bag balance bank barrel base basket battery bench bill binder blanket block board boat body
bolt bond bonus book border boss bottle box branch brand bread bridge broker brush bucket budget building bundle
button buyer cabinet cable cake calendar call camera campaign candidate candle captain card cargo carpet carrier cart
case cash catalogue category cause centre chain chair chance channel charge chart check cheese chest choice circle
citizen city claim class clerk client clock cloth coat code coffee collar colleague colour column comment committee
company complaint component computer concern condition conference contact container contract copy corner cost council
counter country coupon course courier court cover craft crate credit crew crop crowd cup currency current curtain
curve customer cycle damage date day deadline deal dealer debt decision deck default defect degree delay delivery
demand department deposit depot desk detail device diary dinner direction discount dish display distance district dock
document door doubt draft drawer dress drink driver duty edge edition editor effect effort egg element employee engine
entrance entry envelope environment error estimate evening event example exchange excuse exit expense expert export
extension fabric factor factory failure fair farmer fault favour feature fee feedback fence field figure file filter
finance finding finger fire flag flight floor flow flower folder food foot force forecast forest form format frame
freight friend fruit fuel function fund garden garment gate gift glass glove goal goods grade grain group growth
guarantee guest guide hall hammer hand handle harbour hardware head health heart heat height help hinge history holder
holiday home hook hour house idea image impact import inch index industry ingredient inquiry inspector instance
insurance interest interval invoice island issue item jacket job journal journey judge juice key kettle kind kitchen
knife label ladder lamp language law lawyer layer lead leaf leather lesson letter level library licence lid light
limit line link list litre load loan location lock log loss lunch machine magazine mail manager manual map margin mark
market master match material matter meal meaning measure meeting member memory menu merchant message metal meter
method middle mile milk mill mind mine minute mirror mistake model moment money month morning motor mountain mouth
name nature neck need neighbour network news night node noise note notice number object office officer oil opinion
option orange order organisation origin owner pack package page paint pair pallet panel paper parcel parent park part
partner party passenger password patch path patient pattern payment pen penalty people percent period permission
person phone photograph phrase piece pipe place plan plane plant plastic plate platform player pocket point police
policy pool port position post pot pound powder power practice premium present president press pressure price printer
prize problem procedure process product profit programme project promise proof property proposal protection protocol
purchase purpose quality quantity quarter queue quotation rack rail range rank rate rating reader reason rebate
receipt recipe record reference refund region register relation reminder rental repair reply report request reserve
resource response result retailer return review reward rice ring risk river road rock role roof room root rope route
row rule safety salary sale sample sand scale schedule scheme school science score screen screw seal season seat
second section sector seller sentence series server service session sheet shelf shell ship shipment shirt shoe shop
shore shoulder side sign signal silver site size skill skin sleeve slip snow soap software soil solution song source
space spare speaker speed spring square staff stage stamp standard star state statement station status steel step
stock stone storage store storm story street string student style subject subscription sugar suggestion summary summer
supplier supply support surface surprise survey switch symbol system table tail tank tape target task tax team
technology telephone temperature term terminal test text theme theory thing thread ticket tide tile timber time title
token tool top topic total touch tour tower town toy track trade traffic trailer train transfer transport tray
treatment tree trend trial trip truck trust tube turn tyre unit update user valley value valve van vehicle vendor
version vessel view village visit visitor voice volume voucher wage wall warehouse warning warranty waste water wave
way weather website week weight wheel window winter wire witness wood wool word work worker workshop world yard year
zone
""".split()  # noqa: SIM905 - prose is easier to read and extend than hundreds of literals

_VERBS = """
accept achieve acknowledge add adjust admit advise agree allow announce appear apply approve argue arrange ask assign
attach attend avoid become believe belong borrow bring build burn cancel carry catch change choose clean clear climb
close collect compare compete complain complete compute confirm connect consider consist contain continue control
convert count create cross cut deal decide declare decline decrease deliver deny depend describe deserve detect
determine develop differ discover discuss dispatch divide double draw drive drop earn eat employ enable encourage end
enjoy ensure enter escalate establish estimate examine exceed exist expand expect expire explain explore express
extend face fail fall feel fetch fill find finish fix fold follow forget forward gather generate give grow guess
handle happen hear hide hire hold identify imagine improve include increase indicate inform inspect install intend
introduce invite join jump keep know land last laugh launch learn leave lend lift listen live look lose love lower
maintain make manage measure meet mention merge miss mix monitor move notify observe obtain occur offer open operate
organise pack paint park pass pay perform permit pick place plan play point pour prefer prepare prevent print proceed
process produce promise propose protect prove provide publish pull purchase push put question quote raise reach react
read realise receive recognise recommend recover reduce refer refund refuse reject relate release remain remember
remove repair repeat replace reply represent require reschedule resolve respond restore retain return reveal review
ring rise roll run save say search see seem select sell send separate serve settle shake share ship shout show shut
sign simplify sit sleep solve sort speak spend split spread stand start stay stop store stretch study submit succeed
suffer suggest suit supply suppose survive suspect take talk teach tell tend thank think throw touch trace train
transform travel treat trust try turn understand update use validate verify visit wait walk want warn wash watch wear
weigh win wish withdraw wonder work worry wrap write
""".split()  # noqa: SIM905 - prose is easier to read and extend than hundreds of literals

_ADJECTIVES = """
able active actual additional annual available average bad basic best better blue bright broad broken brown busy calm
careful certain cheap clean clear clever cold comfortable common complete complex correct cotton critical curious
daily damaged dark dead deep delicate different difficult digital direct dirty double dry early easy electric empty
entire equal essential exact excellent extra false familiar famous fast final fine first flat foreign formal fragile
free frequent fresh friendly full general gentle genuine global golden good gradual grand great green grey happy hard
heavy helpful high honest hot huge human important independent initial internal international invalid joint junior
keen large late lazy legal light likely little local long loose loud lucky main major manual medical mental minor
missing mixed modern monthly moral narrow national natural neat necessary negative new next nice normal official old
only open optional ordinary original other overdue parallel partial past patient perfect permanent personal plain
pleasant polite poor popular positive possible powerful practical precise previous primary private probable proper
proud public quick quiet random rapid rare raw ready real recent red regional regular relevant reliable remote
responsible rich right rough round royal rural safe second secure senior sensitive separate serious several shallow
sharp short silent similar simple single slight slow small smooth social soft solid southern spare special specific
stable standard steady stiff straight strange strict strong sudden sufficient suitable sweet tall technical temporary
thick thin tight tiny tired total tough typical unable unique unknown unusual upper urban urgent useful usual valid
valuable various visible warm weak wealthy weekly welcome western wet white whole wide wild willing wise wooden wrong
yellow young
""".split()  # noqa: SIM905 - prose is easier to read and extend than hundreds of literals

_ADVERBS = """
about above across after again against almost alone along already also although always among another anyway around
away because before behind below beside between beyond both but certainly clearly completely currently directly down
during each early either else enough even eventually ever every everything exactly except finally first for forward
from frequently further generally hardly here how however immediately indeed inside instead into itself just later
least less likely maybe meanwhile more most much myself nearly neither never nevertheless next nobody nothing now
nowhere of off often once only onto or otherwise our out outside over perhaps please probably quickly quite rather
really recently shall should simply since slowly some somebody somehow something sometimes soon still such suddenly
than that their them themselves then there therefore these they this those though through throughout thus today
together tomorrow tonight too towards under unless until upon usually very what whatever when whenever where whereas
wherever whether which while who whoever whole whose why will with within without would yesterday yet your yourself
""".split()  # noqa: SIM905 - prose is easier to read and extend than hundreds of literals

PEOPLE = """
Ada Aisha Alan Amir Ana Anton Beatriz Bjorn Carlos Chen Clara Daniel Deepa Diego Elena Emil Fatima Felix Freya Grace
Hana Hassan Helena Ibrahim Ines Ivan Jamal Jonas Julia Kaito Karim Katya Kofi Lars Leila Li Lucia Marco Maria Mei Mina
Nadia Niko Noah Nora Oliver Olga Omar Paula Pedro Priya Rafael Rosa Ruth Samir Sara Sofia Tariq Thomas Uma Vera Viktor
Wei Xavier Yara Yusuf Zoe
""".split()  # noqa: SIM905 - prose is easier to read and extend than hundreds of literals

PLACES = """
Accra Amsterdam Athens Bangalore Barcelona Berlin Bogota Boston Bristol Brussels Cairo Chicago Copenhagen Delhi Dublin
Edinburgh Florence Geneva Glasgow Hamburg Hanoi Helsinki Istanbul Jakarta Johannesburg Kyoto Lagos Leeds Lima Lisbon
London Lyon Madrid Manchester Manila Melbourne Milan Montreal Munich Nairobi Naples Osaka Oslo Paris Porto Prague
Rotterdam Santiago Seattle Seoul Singapore Stockholm Sydney Tokyo Toronto Turin Utrecht Vienna Warsaw Zurich
""".split()  # noqa: SIM905 - prose is easier to read and extend than hundreds of literals

_STATUSES = ("pending", "packed", "shipped", "delivered", "returned", "cancelled")
_PRIORITIES = ("low", "normal", "high", "urgent")

_SENTENCES = (
    "{person} from {place} ordered {count} {adjective} {noun}s and asked us to {verb} them before the {noun2} closes.",
    "Please {verb} the {noun} {adverb}; {person} needs a {adjective} {noun2} in {place} by Friday.",
    "The {adjective} {noun} wasn't {adverb} the {noun2}, so {person} couldn't {verb} it.",
    'Ticket #{count}: "I\'ve been waiting for my {noun}", says {person}. "It\'s {adjective}; nobody will {verb} it!"',
    "How do I {verb} a {noun} that {person} sent {adverb} {place}? We'll {verb2} the {adjective} {noun2} first.",
    "{Adverb} the {noun} arrived, they'd {verb} every {adjective} {noun2} ({count}) and don't {verb2} the rest.",
    "{Noun}s, {noun2}s and {adjective} things: {person} can {verb} or {verb2} {adverb} {place}.",
    "You are a helpful assistant. Rank the candidates by how they {verb} the {adjective} {noun}, {adverb} explaining.",
    "Judge the answer: does it {verb} the {noun}? Is the {noun2} {adjective}? Give a score from 0 to 10.",
    "Reply only with JSON that {person} can {verb} {adverb}: the {noun}, its {adjective} {noun2} and {count} more.",
)

_SNIPPETS = (
    '{{"order_id": "ORD-{count:04d}", "status": "{status}", "priority": "{priority}", "quantity": 7, "gift": true}}',
    '{{"customer":"{person}","city":"{place}","items":[{{"name":"{noun}","price":{count}.50}}],"note":null}}',
    '{{\n  "ranking": ["A", "C", "B", "D"],\n  "reason": "{adjective} {noun}",\n  "confidence": "{priority}"\n}}',
    '{{"verdict": "pass", "score": {digit}, "failing_criterion": "none", "passed": false, "tags": ["{noun}"]}}',
    '{{"type":"object","properties":{{"{noun}":{{"type":"string","enum":["{adjective}"]}}}},"required":[]}}',
    "def {verb}_{noun}({noun2}):\n    return {noun2}.{verb2}({count})  # {adjective}\n",
    '<p class="{adjective}">{noun}: {count}</p>\t{person}@{place}.example https://a.example/{noun}/{noun2}?id={count}',
)

_OTHER_LANGUAGES = (
    "Die Bestellung wurde gestern verschickt; bitte prüfen Sie die Rechnung und die Größe der Straße. Schön!",
    "La commande est arrivée hier à l'hôtel, mais le paquet était cassé. Ça, c'est très gênant: où est le reçu?",
    "El pedido llegó mañana por la tarde; ¿dónde está la factura del señor Núñez? ¡Qué rápido, corazón y acción!",
    "Заказ доставлен вчера. Спасибо за помощь, всё хорошо. Сколько стоит этот товар?",
    "订单已经发货,请确认收货地址。客户的问题已解决,谢谢您的帮助。",
    "ご注文の商品は明日届きます。ありがとうございます。",
    "تم شحن الطلب أمس. شكرا لكم على المساعدة.",
    "주문하신 상품이 내일 도착합니다. 감사합니다.",
    "Emoji: 🙂 🚚 📦 ✅ ❌ ⚠️ 🎉 — “quotes”, ‘single’, … and €12, £3, ½, ×, →, °C.",
)

_NUM_LINES = 4_000


def nouns() -> list[str]:
    """The nouns of the corpus, which training examples use too."""
    return _NOUNS


def corpus_lines() -> Iterator[str]:
    """The lines of the corpus, the same every time."""
    yield from _OTHER_LANGUAGES * 3
    for number in range(_NUM_LINES):
        words = _words_of_line(number)
        yield _SENTENCES[number % len(_SENTENCES)].format_map(words)
        yield _SNIPPETS[number % len(_SNIPPETS)].format_map(words)


def _words_of_line(number: int) -> dict[str, str | int]:
    """The words of line `number`. No stride shares a factor with its list's length, so every word is used."""
    noun, adverb = _NOUNS[number * 41 % len(_NOUNS)], _ADVERBS[number * 11 % len(_ADVERBS)]
    return {
        "noun": noun,
        "Noun": noun.capitalize(),
        "noun2": _NOUNS[(number * 13 + 5) % len(_NOUNS)],
        "verb": _VERBS[number * 17 % len(_VERBS)],
        "verb2": _VERBS[(number * 19 + 3) % len(_VERBS)],
        "adjective": _ADJECTIVES[number * 23 % len(_ADJECTIVES)],
        "adverb": adverb,
        "Adverb": adverb.capitalize(),
        "person": PEOPLE[number * 29 % len(PEOPLE)],
        "place": PLACES[number * 31 % len(PLACES)],
        "status": _STATUSES[number % len(_STATUSES)],
        "priority": _PRIORITIES[number % len(_PRIORITIES)],
        "count": number * 37 % 9_973,
        "digit": number % 11,
    }
