"""Which characters the glyphs data set trains and tests on.

Train: digits, Greek and Cyrillic, 75 characters. Test: Latin, 39. Left out, so that no test class was seen in training
and no two classes of a side are one shape in two sizes:

- Greek and Cyrillic letters drawn like a Latin one: Α Β Ε Ζ Η Ι Κ Μ Ν Ο Ρ Τ Υ Χ, А В Е К М Н О Р С Т У Х, Є І Ј Ѕ Ү Ԛ,
  Ԝ, Λ (an A without its bar), Ғ (F), Һ (h), and γ ι κ ν ο ρ τ υ χ, г и п т у, the last ones also because of their
  italics;
- the digits 0 (O) and 1 (l);
- Cyrillic letters drawn like a Greek one or a digit: Г П Ф Ө Ѳ (Γ Π Φ Θ), Ԑ (ε), З (3), б (6);
- lower cases that are their upper case made smaller: Latin c k o p s u v w x y z (the upper case stays), π, and nearly
  all of Cyrillic; Latin i and l, which are one stroke, as I is, in a face without serifs;
- letters of another script with a small mark added to the Latin shape (Ҫ Ҭ Ҳ Қ Ұ), accented letters, and letters that
  not every face has (or that differ by a mark only, as Ӌ from Ҷ).

`tests/data/test_glyphs.py` measures that no shape of one side is found on the other.
"""

DIGITS = "23456789"
GREEK = "ΓΔΘΞΠΣΦΨΩαβδεζηθλμξςσφψωϑϖϗϟϠ"
CYRILLIC = "БДЖИЙЛЦЧШЩЪЫЬЭЮЯфЂЉЊЋЏђѢѤѪѬҐҔҖҘҢҤҦҴҶӠԒ"
LATIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + "abdefghjmnqrt"

TRAIN = DIGITS + GREEK + CYRILLIC
TEST = LATIN
