import functools, json, re

def so_far(text):
    """What half an input says (P57): the longest beginning of it that is JSON once it is closed."""
    for end in range(len(text), 0, -1):
        bare, *is_cut = re.sub(r'"(?:[^"\\]|\\.)*"', '', text[:end], flags=re.DOTALL).split('"', 1)
        close = lambda rest, bracket: {'[': ']', '{': '}'}[bracket] + rest if bracket in '[{' else rest[1:]
        closers = functools.reduce(close, re.findall(r'[\[\]{}]', bare), '')
        for rest in ['"'] if is_cut else ['', 'rue', 'ue', 'e', 'alse', 'lse', 'se', 'ull', 'll', 'l']:
            try:
                return {'input': json.loads(text[:end] + rest + closers)}
            except ValueError:
                continue
    return {}
