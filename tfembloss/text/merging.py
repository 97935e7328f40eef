"""Learns the entries of a WordPiece vocabulary by merging pairs."""

import collections
import heapq
import itertools


def merged_entries(spellings, room):
    """Returns entries, the first merged first, by byte-pair merging.

    Each step joins the pair of neighboring entries that occurs most often into a new
    entry, everywhere: "l ##o ##w" becomes "lo ##w". Only the words in which a pair occurs
    are spelled anew, so a step takes as long as there are such words.

    Args:
        spellings: dict of words, each a tuple of entries of one character, to their counts.
        room: the maximum number of entries.

    Returns:
        List of at most `room` entries, each of which occurs at least twice when merged.

    Reference:
        Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units",
        2016, https://arxiv.org/abs/1508.07909
    """
    words, counts = list(spellings), list(spellings.values())
    totals, places = collections.Counter(), collections.defaultdict(set)
    for word, (spelling, count) in enumerate(zip(words, counts, strict=True)):
        for pair in itertools.pairwise(spelling):
            totals[pair] += count
            places[pair].add(word)
    heap = [(-total, pair) for pair, total in totals.items()]
    heapq.heapify(heap)
    entries = {}  # a set in the order of insertion
    while heap and len(entries) < room:
        total, pair = heapq.heappop(heap)
        if totals[pair] < 2:
            continue
        if totals[pair] != -total:  # it has become rarer since
            heapq.heappush(heap, (-totals[pair], pair))
            continue
        entry = pair[0] + pair[1].removeprefix("##")
        entries[entry] = None  # maybe again: "abc" is "ab ##c" and "a ##bc"
        made = set()
        for word in places.pop(pair):
            before, count = words[word], counts[word]
            words[word] = after = _merged(before, pair, entry)
            for other in itertools.pairwise(before):
                totals[other] -= count
            for other in itertools.pairwise(after):
                totals[other] += count
                if entry in other:
                    places[other].add(word)
                    made.add(other)
        for other in made:
            heapq.heappush(heap, (-totals[other], other))
    return list(entries)


def _merged(spelling, pair, entry):
    """Returns the spelling with this entry in place of each such pair."""
    result, rest = [], iter(itertools.pairwise((*spelling, None)))
    for one, following in rest:
        if (one, following) == pair:
            result.append(entry)
            next(rest, None)
        else:
            result.append(one)
    return tuple(result)
