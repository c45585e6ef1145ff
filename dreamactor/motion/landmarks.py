"""Everything that is seen of one person in one picture, by all the models together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from dreamactor.motion import body as bodies
from dreamactor.motion import face as faces
from dreamactor.motion import hand as hands
from dreamactor.motion.assets import models_folder
from dreamactor.motion.body import Body, BodyModel
from dreamactor.motion.face import Face, FaceModel
from dreamactor.motion.hand import Hand, HandModel
from dreamactor.motion.head import Head
from dreamactor.motion.models import (
    body_detector,
    far_face_detector,
    near_face_detector,
    no_greeting,
    palm_detector,
)
from dreamactor.motion.pose import LEFT, RIGHT, Float
from dreamactor.motion.roi import Picture, Region
from dreamactor.motion.ssd import Detection

BODY_PER_FACE = 12.0  # side of a body's region in sides of its face's box
HEAD_WINDOW = 4.5  # side of the window searched for a face, in head radii
STRAY_HEAD = 1.2  # head radii between the face's and the body's head from which they are two people's
HAND_WINDOW = 2.2  # side of the window searched for a palm, in forearms
STRAY_HAND = 0.7  # forearms between the hand's and the body's wrist from which they do not belong together
DOUBTFUL = 0.98  # score of a body without a face below which it is looked for once more
WRIST_SEEN = 0.3
SAME_HEAD = 0.04  # body sides between two finds up to which they are one person; a head is about 0.12 wide
SURE, SURE_MESH, SURE_FACE = 0.8, 0.95, 0.75  # of a body, a mesh, a face: below, somebody new is not believed
TILE_SURE = 0.65  # detections in tiles must be surer than in the whole: there are many more chances to be wrong
SIDES = {  # hand: wrist, elbow, index knuckle, little finger's knuckle
    RIGHT: (bodies.RIGHT_WRIST, bodies.RIGHT_ELBOW, bodies.RIGHT_INDEX, bodies.RIGHT_PINKY),
    LEFT: (bodies.LEFT_WRIST, bodies.LEFT_ELBOW, bodies.LEFT_INDEX, bodies.LEFT_PINKY),
}


@dataclass(frozen=True)
class Candidate:
    """Somebody a detector found: middle of the head, side of the body's region in pixels, score, where to look."""

    x: float
    y: float
    size: float
    score: float
    body: Region | None = None
    face: Region | None = None


@dataclass(frozen=True)
class Seen:
    """One person in one picture: a body or a face or both. `hands` are the person's right and left."""

    body: Body | None
    face: Face | None = None
    hands: tuple[Hand | None, Hand | None] = (None, None)

    @property
    def largest(self) -> Body | Face:
        """The body, or the face where there is none."""
        found = self.body or self.face
        assert found is not None
        return found

    @property
    def head(self) -> Head:
        """From the face where there is one, else from the body."""
        return (self.face or self.largest).head

    @property
    def score(self) -> float:
        """How sure the models are of their find: of the body, or of the face where there is none."""
        return self.largest.score

    @cached_property
    def candidate(self) -> Candidate:
        """Where to look for this person in the next picture."""
        body = self.body.next_region if self.body else None
        face = self.face.next_region if self.face else None
        size = self.largest.next_region.size
        x, y, _ = self.head.center
        return Candidate(float(x), float(y), size if body else _body_size(size), 1.0, body, face)


class Landmarker:
    """The models, opened once; not to be shared between threads. Raises MissingDependency when they are not there."""

    def __init__(self) -> None:
        models = models_folder()
        with no_greeting():
            self._find_bodies = body_detector(models)
            self._find_faces = far_face_detector(models)
            self._find_face_near = near_face_detector(models)
            self._find_palms = palm_detector(models)
            self._body = BodyModel(models)
            self._face = FaceModel(models)
            self._hand = HandModel(models)

    def search(self, picture: Picture, smallest: float = 0.0, everybody: bool = False) -> list[Candidate]:
        """People in the picture, the largest first; those too small for the detectors are sought in tiles.

        Tiles cost time: they are left out where nobody of `smallest` body side needs them, and, unless `everybody` is
        wanted, once somebody is found.
        """
        height, width = picture.shape[:2]
        found = self._search_in(picture, None)
        for parts in (1, 2):
            side = min(height, width) / parts
            largest = max((one.size for one in found), default=0.0)
            if smallest > side or largest > side or (found and not (everybody and parts == 1)):
                break
            for tile in _tiles(height, width, side):
                sure = [new for new in self._search_in(picture, tile) if new.score >= TILE_SURE]
                found += [new for new in sure if not _known(new, found)]
        return sorted(found, key=lambda one: -one.size)

    def search_near(self, picture: Picture, last: Candidate) -> list[Candidate]:
        """Like `search`, looking first only around where somebody was."""
        near = self._search_in(picture, Region(last.x, last.y, last.size))
        return near or self.search(picture, smallest=0.5 * last.size)

    def everybody(self, picture: Picture) -> list[Seen]:
        """Everybody in the picture with all landmarks, the largest first; doubles and mistakes are left out."""
        people: list[Seen] = []
        for where in self.search(picture, everybody=True):
            seen = self.observe(picture, where)
            if seen is not None and not _known(seen.candidate, [one.candidate for one in people]):
                people.append(seen)
        return sorted(people, key=lambda one: -one.candidate.size)

    def observe(
        self, picture: Picture, where: Candidate, last: Seen | None = None, thorough: bool = True
    ) -> Seen | None:
        """Landmarks of the person at `where`; `last` is the same person in the picture before.

        Hands that were not seen before are sought at the wrists; at hidden wrists only if `thorough`. Returns None when
        neither body nor face is found.
        """
        fresh = last is None
        face = self._face.observe(picture, where.face) if where.face else None
        body = self._observe_body(picture, where, fresh)
        if fresh and where.body is not None and face is not None and (body is None or _far_apart(body, face)):
            where = replace(where, body=None)  # what is found there is not the body of the face
            body = self._observe_body(picture, where, fresh)
        face = self._observe_face(picture, where, body, face, fresh)
        if body is not None and face is not None and _far_apart(body, face):
            body, face = (None, face) if where.body is None else (body, None)
        if body is None and face is None:
            return None
        if fresh and not (self._certain_face(picture, face) or self._certain_body(picture, body)):
            return None
        if face is None and body is not None and body.score < SURE:
            return None
        pair = (None, None) if body is None else self._observe_hands(picture, body, last, thorough)
        return Seen(body, face, pair)

    def _search_in(self, picture: Picture, tile: Region | None) -> list[Candidate]:
        heads = self._find_faces.find(picture, tile)
        people = []
        for found in self._find_bodies.find(picture, tile):
            region = bodies.region_of_detection(found)
            own = next((head for head in heads if _inside(head, found)), None)
            heads = [head for head in heads if head is not own]
            center = own.points.mean(axis=0) if own else found.box.reshape(2, 2).mean(axis=0)
            people.append(
                Candidate(
                    float(center[0]), float(center[1]), region.size, found.score,
                    region, faces.region_of_detection(own) if own else None,
                )
            )  # fmt: skip
        for head in heads:
            x, y = head.points.mean(axis=0)
            region = faces.region_of_detection(head)
            people.append(Candidate(float(x), float(y), _body_size(region.size), head.score, None, region))
        return people

    def _observe_body(self, picture: Picture, where: Candidate, fresh: bool) -> Body | None:
        region = where.body
        if region is None and where.face is not None:  # hips lie about 4.5 face sides under the face
            side = where.face.size / faces.MARGIN
            down = 4.5 * side
            x, y = where.face.x - down * np.sin(where.face.angle), where.face.y + down * np.cos(where.face.angle)
            region = Region(float(x), float(y), side * BODY_PER_FACE, where.face.angle)
        if region is None:
            return None
        body = self._body.observe(picture, region)
        if body is not None and fresh:  # the first region was rough
            body = self._body.observe(picture, body.next_region) or body
        if where.face is None and (body is None or body.score < DOUBTFUL):
            body = self._second_look(picture, body.next_region if body else region, body)
        return body

    def _second_look(self, picture: Picture, region: Region, body: Body | None) -> Body | None:
        """The surest of `body` and what the detector finds around it: a model that starts askew stays askew."""
        upright = Region(region.x, region.y, region.size * 1.3)
        for found in self._find_bodies.find(picture, upright)[:2]:
            again = self._body.observe(picture, bodies.region_of_detection(found))
            again = again and (self._body.observe(picture, again.next_region) or again)
            if again is not None and (body is None or again.score > body.score):
                body = again
        return body

    def _observe_face(
        self, picture: Picture, where: Candidate, body: Body | None, face: Face | None, fresh: bool
    ) -> Face | None:
        """`face`, which was seen at `where`, looked at again if that place was rough; else the one on the body."""
        if face is not None and fresh:
            face = self._face.observe(picture, face.next_region) or face
        if face is not None and not (body is not None and _far_apart(body, face)):
            return face
        if body is None or (face is not None and where.body is None):
            return face
        window = Region(float(body.head.center[0]), float(body.head.center[1]), body.head.radius * HEAD_WINDOW)
        if not window.usable(*picture.shape[:2]):
            return None
        for found in self._find_face_near.find(picture, window)[:1]:
            face = self._face.observe(picture, faces.region_of_detection(found))
            return face and (self._face.observe(picture, face.next_region) or face)
        return None

    def _certain_body(self, picture: Picture, body: Body | None) -> bool:
        """Whether a body just found is one: drawings of letters come this far, but are not found a second time."""
        if body is None or body.score < SURE:
            return False
        return any(again.score >= SURE for again in self._find_bodies.find(picture, body.next_region))

    def _certain_face(self, picture: Picture, face: Face | None) -> bool:
        """The same for a face, by the detector that did not find it."""
        if face is None or face.score < SURE_MESH:
            return False
        window = Region(float(face.head.center[0]), float(face.head.center[1]), 3 * face.head.radius)
        return any(again.score >= SURE_FACE for again in self._find_face_near.find(picture, window))

    def _observe_hands(
        self, picture: Picture, body: Body, last: Seen | None, thorough: bool
    ) -> tuple[Hand | None, Hand | None]:
        pair: list[Hand | None] = [None, None]
        for side in (RIGHT, LEFT):
            before = last.hands[side] if last else None
            hand = self._hand.observe(picture, before.next_region) if before else None
            if hand is None or not _belongs(hand, body, side):
                hand = self._find_hand(picture, body, side, thorough)
            pair[side] = hand
        right, left = pair
        if right is not None and left is not None and _same_place(right, left):
            # one hand claimed by both arms: it goes to the side it looks like
            pair[LEFT if right.rightness >= 0.5 else RIGHT] = None
        return pair[RIGHT], pair[LEFT]

    def _find_hand(self, picture: Picture, body: Body, side: int, thorough: bool) -> Hand | None:
        wrist, _, index, pinky = SIDES[side]
        knuckles = (body.points[index, :2] + body.points[pinky, :2]) / 2
        x, y = (body.points[wrist, :2] + knuckles) / 2
        inside = 0 <= x < picture.shape[1] and 0 <= y < picture.shape[0]
        if not inside or not (thorough or body.visible[wrist] >= WRIST_SEEN):
            return None
        size = max(_forearm(body, side), 0.1 * body.next_region.size) * HAND_WINDOW
        for found in self._find_palms.find(picture, Region(float(x), float(y), size)):
            hand = self._hand.observe(picture, hands.region_of_palm(found))
            if hand is not None and _belongs(hand, body, side):
                return hand
        return None


def _body_size(face: float) -> float:
    """Side of a body's region, from that of its face's."""
    return face / faces.MARGIN * BODY_PER_FACE


def _tiles(height: int, width: int, side: float) -> list[Region]:
    """Overlapping squares that cover the picture."""
    columns, rows = (max(1, int(np.ceil(2 * length / side - 1))) for length in (width, height))
    xs = np.linspace(side / 2, max(width - side / 2, side / 2), columns)
    ys = np.linspace(side / 2, max(height - side / 2, side / 2), rows)
    return [Region(float(x), float(y), side) for y in ys for x in xs]


def _known(one: Candidate, others: list[Candidate]) -> bool:
    return any(np.hypot(one.x - other.x, one.y - other.y) < SAME_HEAD * max(one.size, other.size) for other in others)


def _inside(head: Detection, body: Detection) -> bool:
    """Whether a face's middle lies in a body detection's box (face and shoulders), with a margin."""
    x, y = head.points.mean(axis=0)
    left, top, right, bottom = body.box
    margin = 0.5 * float(max(right - left, bottom - top))
    return bool(left - margin < x < right + margin and top - margin < y < bottom + margin)


def _far_apart(body: Body, face: Face) -> bool:
    reach = STRAY_HEAD * max(body.head.radius, face.head.radius)
    return float(np.hypot(*(body.head.center[:2] - face.head.center[:2]))) > reach


def _forearm(body: Body, side: int) -> float:
    """Length of the forearm in pixels as if seen from the side; foreshortening does not shorten the metres."""
    wrist, elbow, _, _ = SIDES[side]
    return float(np.linalg.norm(body.world[wrist] - body.world[elbow])) * pixels_per_metre(body)


def pixels_per_metre(body: Body) -> float:
    """How large a metre is in the picture, from all landmarks."""
    weight = (body.visible * body.present + 1e-3)[:, None]
    weight = weight / weight.sum()
    metres = body.world[:, :2] - (weight * body.world[:, :2]).sum(axis=0)
    pixels = body.points[:, :2] - (weight * body.points[:, :2]).sum(axis=0)
    return max(1e-3, float((weight * metres * pixels).sum() / max(1e-9, float((weight * metres**2).sum()))))


def _belongs(hand: Hand, body: Body, side: int) -> bool:
    wrist: Float = body.points[SIDES[side][0], :2]
    reach = STRAY_HAND * max(_forearm(body, side), 0.1 * body.next_region.size)
    return float(np.hypot(*(hand.points[0, :2] - wrist))) < reach


def _same_place(one: Hand, other: Hand) -> bool:
    apart = float(np.linalg.norm(one.points[:, :2] - other.points[:, :2], axis=1).mean())
    return apart < 0.4 * min(one.next_region.size, other.next_region.size)
