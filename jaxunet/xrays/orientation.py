"""Pictures that are stored turned or mirrored are brought upright, and it is said where pixels are not square."""

import numpy as np

_BY_EXIF = {  # how a stored picture becomes the one to be shown: transposed, upside down, left to right
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
AS_IT_IS = (False, False, False)
_OPPOSITE = {"L": "R", "R": "L", "H": "F", "F": "H", "A": "P", "P": "A"}


def upright(pixels: np.ndarray, exif: int) -> np.ndarray:
    """[H, W, ...] as the number in EXIF (1 to 8) says it is to be shown; others mean nothing."""
    return _moved(pixels, *_BY_EXIF.get(exif, AS_IT_IS))


def as_stored(pixels: np.ndarray, moves: tuple[bool, bool, bool]) -> np.ndarray:
    """Undoes the `moves` of `by_patient`: [H, W] as shown -> as it is stored."""
    transposed, upside_down, left_to_right = moves
    return _moved(pixels, *((True, left_to_right, upside_down) if transposed else moves))


def _moved(pixels: np.ndarray, transposed: bool, upside_down: bool, left_to_right: bool) -> np.ndarray:
    if transposed:
        pixels = pixels.swapaxes(0, 1)
    if upside_down:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels[:, ::-1] if left_to_right else pixels)


def by_patient(pixels: np.ndarray, row: str, column: str) -> tuple[np.ndarray, bool, str, tuple[bool, bool, bool]]:
    """A picture with the patient's head at the top, if the file says where it is.

    A turned picture is brought into the usual view, the patient's left at its right. An upright one is not changed,
    even if it is mirrored.

    Args:
      pixels: [H, W].
      row, column: where rows and columns run to, as in DICOM's PatientOrientation: L, R, H, F, A, P, or longer; "" if
        unknown.

    Returns:
      The picture, whether the patient's left is at its left, a note or "", and how it was moved:
      transposed, then turned upside down, then left to right.
    """
    first, second = row[:1], column[:1]
    if not {first, second} <= set(_OPPOSITE):
        return pixels, first == "R", "", AS_IT_IS
    if {first, second} & {"A", "P"} or len({first, second} & {"L", "R"}) != 1:
        return pixels, first == "R", f"PatientOrientation {first}\\{second}: not a frontal view", AS_IT_IS
    if second == "F":
        return pixels, first == "R", "", AS_IT_IS
    transposed = first in "HF"
    if transposed:
        first, second = second, first
    said = f"turned upright: PatientOrientation was {row[:1]}\\{column[:1]}"
    moves = transposed, second == "H", first == "R"
    return _moved(pixels, *moves), False, said, moves


def by_vectors(cosines: list[float]) -> tuple[str, str]:
    """Towards what rows and columns run, from DICOM's ImageOrientationPatient; "" where it is damaged."""
    if len(cosines) != 6 or not np.isfinite(cosines).all():
        return "", ""
    letters = []
    for vector in (cosines[:3], cosines[3:]):
        axis = int(np.argmax(np.abs(vector)))
        letter = "LPH"[axis]
        letters.append(letter if vector[axis] > 0 else _OPPOSITE[letter])
    return letters[0], letters[1]


def not_square(height: float, width: float) -> tuple[str, ...]:
    """A sentence if pixels of this height and width, in any unit, are not square. 0 means unknown.

    More than 1 : 10 is taken for a mistake and gives no sentence.
    """
    if height <= 0 or width <= 0 or abs(height / width - 1) <= 0.02 or not 0.1 < height / width < 10:
        return ()
    return (f"its pixels are not square (height : width is {height / width:.3g})",)
