"""What the rules know: topics, aspects, and the sentences that add an aspect to a topic.

Every sentence holds for any subject of its topic, adds no subject, and says nothing about what persons
look like.
"""

from __future__ import annotations

from typing import Final

from shared.presets import Medium, Quality

ANY: Final = "any"
"""The topic whose sentences fit every prompt."""

TOKEN_TARGETS: Final[dict[Quality, int]] = {"fast": 175, "high": 250}
"""Longest enhanced WAN prompt in tokens: the targets that the product's language-model prompts name."""

TOPICS: Final[dict[str, tuple[str, ...]]] = {
    "drawn": tuple(
        "anime|animation|abstract|blueprint|cartoon|circle|collage|comic|crayon|diagram|drawing|drawn"
        "|emblem|engraving|flat design|geometric|graphic|icon|illustration|illustrated|line art|linocut"
        "|logo|plain background|white background|black background|gray background|grey background|manga"
        "|minimalist|mosaic|oil painting|origami|painted|painting|paper cut|pastel|pencil|pixel art"
        "|polygon|poster|rectangle|retro game|shape|sketch|square on|stained glass|storybook|sumi"
        "|triangle|vector|watercolor|watercolour|woodcut".split("|")
    ),
    "space": tuple(
        "asteroid|astronaut|comet|cosmic|cosmos|galaxy|galaxies|moon surface|nebula|orbit|planet|rocket"
        "|satellite|solar system|space station|spaceship|starfield|supernova".split("|")
    ),
    "underwater": tuple(
        "aquarium|coral|dolphin|fish|jellyfish|kelp|manta|octopus|reef|seabed|seahorse|shark|submarine"
        "|turtle|underwater|whale".split("|")
    ),
    "fire": tuple(
        "bonfire|campfire|candle|ember|fire|fireplace|firework|flame|lantern|lava|torch".split("|")
    ),
    "animal": tuple(
        "animal|bear|bee|bird|bull|bunny|butterfly|butterflies|cat|chicken|cow|crab|crane|deer|dog|donkey"
        "|dragon|duck|eagle|elephant|falcon|fox|foxes|frog|giraffe|goat|goose|hedgehog|heron|horse|kitten|koala"
        "|lamb|lion|lizard|monkey|moose|mouse|owl|panda|parrot|penguin|pig|pony|ponies|puppy|puppies|rabbit"
        "|raccoon|raven|robin|seagull|sheep|snail|spider|squirrel|stork|swan|tiger|wolf|wolves|zebra".split(
            "|"
        )
    ),
    "vehicle": tuple(
        "airplane|airship|bicycle|bike|bus|buses|car|cart|ferry|ferries|glider|helicopter|lorry|motorbike"
        "|motorcycle|plane|racing|scooter|sled|tractor|train|tram|truck|van|wagon|zeppelin".split("|")
    ),
    "water": tuple(
        "bay|beach|boat|brook|canoe|canal|coast|creek|fjord|fountain|harbor|harbour|kayak|lagoon|lake"
        "|lighthouse|ocean|pier|pond|port|raft|rapids|river|rowboat|sail|sailing|sailboat|sea|ship|shore"
        "|stream|surf|tide|water|waterfall|wave|yacht".split("|")
    ),
    "people": tuple(
        "actor|artist|audience|baker|barista|carpenter|chef|climber|cook|couple|crowd|cyclist|dancer"
        "|diver|drummer|explorer|farmer|fisherman|friend|gardener|guitarist|hiker|man|men|musician"
        "|painter|passenger|people|performer|person|pianist|potter|rider|runner|sailor|shopkeeper|singer"
        "|skater|skier|somebody|someone|surfer|swimmer|teacher|traveler|traveller|violinist|walker|woman"
        "|women|worker".split("|")
    ),
    "food": tuple(
        "apple|baking|berry|berries|bread|breakfast|burger|cake|cheese|chocolate|coffee|cookie|cooking"
        "|dessert|dinner|dish|dishes|food|fruit|honey|ice cream|lemon|lunch|meal|noodle|pancake|pasta"
        "|pastry|pastries|pizza|rice|salad|sandwich|sandwiches|soup|steak|sushi|tea|vegetable|wine".split("|")
    ),
    "interior": tuple(
        "attic|bakery|barn|bathroom|bedroom|bookshop|cabin|cafe|cathedral|church|classroom|corridor"
        "|garage|greenhouse|hall|hallway|interior|kitchen|laboratory|library|living room|museum|office"
        "|restaurant|room|shop|staircase|studio|theater|theatre|workshop".split("|")
    ),
    "city": tuple(
        "alley|avenue|boulevard|bridge|building|castle|city|cities|crossing|downtown|facade|market|metro"
        "|palace|plaza|roof|rooftop|skyline|skyscraper|town square|station|street|subway|temple|tower"
        "|town|traffic|tunnel|urban|village".split("|")
    ),
    "weather": tuple(
        "blizzard|cloudburst|drizzle|fog|foggy|hail|lightning|mist|misty|rain|raining|rainy|sandstorm"
        "|snow|snowfall|snowing|snowy|storm|stormy|thunder|tornado|wind|windy".split("|")
    ),
    "landscape": tuple(
        "canyon|cave|cliff|cloud|desert|dune|field|flower|forest|garden|glacier|grass|hill|horizon"
        "|hot air balloon|iceberg|island|jungle|landscape|leaf|leaves|meadow|mountain|nature|orchard|path"
        "|plant|prairie|rock|rose|savanna|sky|sunflower|swamp|tree|tulip|valley|vineyard|volcano|woods".split(
            "|"
        )
    ),
}
"""What a prompt may be about, and the words that say so. Where several match, the first one counts."""

STATED_BY: Final[dict[str, tuple[str, ...]]] = {
    "motion": tuple(
        "frozen|freeze frame|motionless|no motion|no movement|perfectly still|slow motion|still life"
        "|still shot|stop motion|time lapse|timelapse".split("|")
    ),
    "camera": tuple(
        "aerial|bird s eye|camera|close up|closeup|crane shot|dolly|drone|establishing shot|fixed shot"
        "|fpv|handheld|locked off|long shot|macro|medium shot|orbiting|overhead|pan left|pan right"
        "|panning|pans|point of view|pov|static shot|steadicam|tilt|top down|tracking|wide shot|zoom"
        "|zooming|zooms".split("|")
    ),
    "light": tuple(
        "backlight|backlit|blue hour|bright|candlelight|candlelit|dark|darkness|dawn|daylight|daytime"
        "|dusk|evening|firelight|glow|glowing|golden hour|illuminated|lamp|light|lighting|lit|low key"
        "|high key|midday|midnight|moonlight|moonlit|morning|neon|night|nighttime|noon|overcast|shade"
        "|shadow|spotlight|sun|sunbeam|sunlight|sunlit|sunny|sunrise|sunset|twilight".split("|")
    ),
    "composition": tuple(
        "aerial|bird s eye|centered|centred|close up|closeup|composition|framed|framing|isometric|macro"
        "|medium shot|negative space|overhead|portrait|rule of thirds|symmetrical|symmetric|symmetry"
        "|top down|wide angle|wide shot".split("|")
    ),
    "coherence": tuple(
        "coherent|consistent|continuous|glitch|morph|morphing|seamless|single take|temporal|transform".split(
            "|"
        )
    ),
    "detail": tuple("detail|detailed|hyperrealistic|intricate|sharp|sharp focus|texture|textured".split("|")),
    "depth": tuple(
        "background|backdrop|bokeh|deep focus|depth|depth of field|foreground|shallow focus".split("|")
    ),
    "palette": tuple(
        "black and white|color|colored|colorful|colour|coloured|colourful|grayscale|greyscale|monochrome"
        "|muted|palette|pastel|saturated|sepia|vibrant|vivid".split("|")
    ),
    "pacing": tuple(
        "fast|frantic|frozen|hyperlapse|pace|quick|rapid|slow|slow motion|slowly|still life|time lapse"
        "|timelapse".split("|")
    ),
    "finish": tuple(
        "cinematic|documentary|film|footage|movie|photo|photograph|photographic|photography"
        "|photorealistic|realistic|render|rendered".split("|")
    ),
    "quality": tuple(
        "4k|8k|award winning|best quality|hdr|high quality|high resolution|masterpiece|uhd".split("|")
    ),
}
"""Words that show that a prompt already states an aspect; nothing is then added to it."""

ASPECTS: Final[dict[Medium, dict[Quality, tuple[str, ...]]]] = {
    "video": {
        "fast": ("motion", "camera", "light", "coherence", "pacing"),
        "high": (
            "motion",
            "camera",
            "light",
            "coherence",
            "depth",
            "pacing",
            "palette",
            "detail",
            "finish",
        ),
    },
    "image": {
        "fast": ("light", "composition", "detail"),
        "high": ("light", "composition", "detail", "depth", "palette", "finish"),
    },
}
"""What is added, the most needed first: a film needs motion before anything else."""

_LIGHT: Final[dict[str, tuple[str, ...]]] = {
    "drawn": (
        "Even, clear lighting keeps every shape easy to read.",
        "Light and shade are simple and consistent.",
    ),
    "space": (
        "A single distant light source draws crisp edges against the deep black.",
        "Cold rim light separates the forms from the darkness.",
    ),
    "underwater": (
        "Soft shafts of light fall from the surface and fade with depth.",
        "Rippling light from above plays over everything.",
    ),
    "fire": (
        "The warm flicker is the main source of light, with soft shadows around it.",
        "Warm light falls off gently into the surrounding shadow.",
    ),
    "weather": (
        "Diffuse light from the sky softens every shadow.",
        "Soft, even light fills the air and gives distance to the view.",
    ),
    "food": (
        "Soft side light brings out every surface.",
        "Warm, diffuse light from one side gives gentle highlights.",
    ),
    "interior": (
        "Soft daylight enters from one side and fades gently into the room.",
        "Warm indoor light mixes with cool daylight from a window.",
    ),
    "city": (
        "Low, soft light runs along the surfaces and gives them relief.",
        "Diffuse light with gentle reflections gives the place depth.",
    ),
    ANY: (
        "Soft natural light comes from one side, with gentle shadows.",
        "Warm, low light models the forms and leaves soft shadows.",
        "Clear natural light with balanced highlights and open shadows.",
    ),
}

_DEPTH: Final[dict[str, tuple[str, ...]]] = {
    "drawn": (
        "Subject and background are clearly separated by tone.",
        "Plain layers give a quiet sense of depth.",
    ),
    "space": ("Fine points of light at many distances give a sense of vast depth.",),
    ANY: (
        "Clear layers of foreground, middle ground and background give depth.",
        "The subject stands out from a softly blurred background.",
        "The background is calm and supports the subject.",
    ),
}

_PALETTE: Final[dict[str, tuple[str, ...]]] = {
    "drawn": (
        "A limited, harmonious set of tones holds the image together.",
        "Flat, well-chosen tones with clear contrast.",
    ),
    "fire": ("Warm oranges stand against deep, cool shadows.",),
    "weather": ("Muted, cool tones with a few warm accents.",),
    ANY: (
        "Rich natural colours with a balanced contrast.",
        "A restrained, harmonious palette with natural tones.",
        "Warm and cool tones are finely balanced.",
    ),
}

_DETAIL: Final[dict[str, tuple[str, ...]]] = {
    "drawn": (
        "Edges are clean and every line is deliberate.",
        "Confident lines and tidy, even surfaces.",
    ),
    "animal": ("Fine natural detail is visible up close, in crisp focus.",),
    "water": ("Fine ripples and reflections are visible on the water.",),
    "food": ("Surfaces look fresh, with fine, appetizing detail.",),
    "vehicle": ("Metal, glass and paint show fine, true reflections.",),
    "city": ("Materials such as stone, glass and metal show fine detail.",),
    "landscape": ("Fine natural detail reaches from the foreground to the distance.",),
    ANY: (
        "Fine detail and true materials are visible, in crisp focus.",
        "Surfaces show fine, natural detail.",
    ),
}

ADDITIONS: Final[dict[Medium, dict[str, dict[str, tuple[str, ...]]]]] = {
    "video": {
        "motion": {
            "drawn": (
                "The movement is smooth and even, with clear shapes from beginning to end.",
                "Everything moves along one simple, flowing path.",
            ),
            "space": (
                "Everything drifts slowly and weightlessly.",
                "The motion is slow and vast, with a gentle rotation.",
            ),
            "underwater": (
                "Everything sways gently with the current while small bubbles rise.",
                "Slow, weightless motion follows the current.",
            ),
            "fire": (
                "The flames dance softly and small sparks rise and fade.",
                "The fire flickers gently and its glow moves over what is near.",
            ),
            "weather": (
                "The air is in constant gentle motion and carries the weather across the scene.",
                "Drifting layers of air move slowly through the view.",
            ),
            "animal": (
                "The movement is natural and alert, with small pauses and turns.",
                "It moves with natural weight and rhythm.",
            ),
            "vehicle": (
                "It moves smoothly along its way and the surroundings glide past.",
                "Steady forward motion with true weight and momentum.",
            ),
            "water": (
                "The water moves in gentle ripples and its reflections shift with them.",
                "Small waves roll through the scene in a calm, steady rhythm.",
            ),
            "people": (
                "Every gesture is natural, unhurried and complete.",
                "The movements are fluid and natural, and clothing follows them.",
            ),
            "food": (
                "Fine steam rises and curls slowly.",
                "Slow, gentle motion shows it from more than one side.",
            ),
            "interior": (
                "Small movements bring the place to life: drifting dust, a stirring curtain.",
                "Quiet, small movements fill the calm place.",
            ),
            "city": (
                "Life goes on in the background in a steady, natural flow.",
                "Gentle movement runs through the whole scene.",
            ),
            "landscape": (
                "A light wind moves through the scene and clouds drift slowly.",
                "Leaves and grass sway gently in a light wind.",
            ),
            ANY: (
                "The subject moves smoothly and naturally.",
                "Gentle, continuous motion runs through the scene.",
                "The movement has natural weight and a clear direction.",
            ),
        },
        "camera": {
            "drawn": (
                "The view stays fixed and frames the whole scene.",
                "The view is steady and straight on.",
            ),
            "space": (
                "The camera glides slowly forward in a long, steady move.",
                "The camera circles slowly at a great distance.",
            ),
            "animal": (
                "The camera follows at the height of the animal in a steady tracking shot.",
                "The camera keeps a calm distance and follows every move.",
            ),
            "vehicle": (
                "The camera tracks alongside at the same speed.",
                "The camera follows from behind in a smooth tracking shot.",
            ),
            "landscape": (
                "The camera glides slowly over the scene in a wide shot.",
                "A slow pan opens up the whole view.",
            ),
            "interior": (
                "The camera moves slowly into the room at eye level.",
                "A slow sideways move reveals the place.",
            ),
            ANY: (
                "The camera pushes in slowly and steadily.",
                "The camera follows in a smooth, steady tracking shot.",
                "A slow, smooth pan keeps the subject in frame.",
            ),
        },
        "light": _LIGHT,
        "coherence": {
            "drawn": (
                "Shapes, lines and tones stay the same from the first frame to the last.",
                "Nothing flickers, and outlines stay stable throughout.",
            ),
            ANY: (
                "Subject, light and surroundings stay consistent from the first frame to the last.",
                "One continuous shot in which nothing flickers or jumps.",
                "Shapes and materials stay stable throughout one continuous shot.",
            ),
        },
        "pacing": {
            ANY: (
                "The pace is calm and lets each moment unfold.",
                "The scene builds gently towards its end.",
                "An even rhythm carries the scene from beginning to end.",
            ),
        },
        "depth": _DEPTH,
        "palette": _PALETTE,
        "detail": _DETAIL,
        "finish": {
            "drawn": (
                "A carefully made animation with a clear, calm design.",
                "A polished, crafted look throughout.",
            ),
            ANY: (
                "Filmed like a scene from a feature film, with considered framing.",
                "Cinematic look with a natural grade and considered framing.",
            ),
        },
    },
    "image": {
        "light": _LIGHT,
        "composition": {
            "drawn": (
                "A clear, balanced layout with room around the subject.",
                "The layout is simple, centred and balanced.",
            ),
            "people": (
                "A considered, natural framing with room around the scene.",
                "Balanced framing that shows the surroundings as well.",
            ),
            "landscape": (
                "A wide view with a clear horizon and lines that lead into the distance.",
                "Foreground forms lead the eye towards the horizon.",
            ),
            "city": (
                "Strong leading lines draw the eye into the scene.",
                "A wide view with clean verticals.",
            ),
            "food": (
                "Seen from slightly above, with a tidy, simple arrangement.",
                "A close, well-balanced view with a simple setting.",
            ),
            ANY: (
                "A balanced composition with one clear subject.",
                "The subject stands off-centre, with calm space around it.",
                "A simple, well-balanced composition that leads the eye to the subject.",
            ),
        },
        "detail": _DETAIL,
        "depth": _DEPTH,
        "palette": _PALETTE,
        "finish": {
            "drawn": (
                "A carefully made piece with a clear, calm design.",
                "A polished, crafted look throughout.",
            ),
            ANY: (
                "A professional photograph with a natural look.",
                "Photographed with a high-quality lens and a natural grade.",
            ),
        },
    },
}
"""By medium, aspect and topic: the sentences to choose from."""
