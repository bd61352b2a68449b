"""`./invoke publish` and `fetch`: what they are asked for, and what they say."""

from guestforge.cli.release import describe, judge_of
from guestforge.core.progress import say
from guestforge.project.options import FetchOptions, PublishOptions
from guestforge.publish.address import find_place
from guestforge.publish.fetch import fetch_release
from guestforge.publish.place import outgoing
from guestforge.release.verify import verify_release


def publish(asked: PublishOptions) -> None:
    """Verify a release, and have it at a place, whole or not at all."""
    place = find_place(asked.to, plain=asked.plain_http)
    release = outgoing(asked.directory, verify_release(asked.directory, judge_of(asked.public_key)))
    new = place.publish(release)
    say(f"{asked.to}: {release.version}{'' if new else ' is there already, with the same content'}")


def fetch(asked: FetchOptions) -> None:
    """Fetch a release, verify it, and lay it out as an output directory is."""
    place = find_place(asked.source, plain=asked.plain_http)
    found = fetch_release(place, asked.output, judge_of(asked.public_key), asked.lock)
    print(describe(found.verified))
    for guest in found.guests:
        say(f"{guest}: as it was released")
