"""A client of Holdfast, written from PROTOCOL.md alone for Python 3.11 without packages. What tests it: run.py."""
import itertools, json, math, random, time
from half_json import so_far
from http.client import HTTPException
from urllib.request import HTTPError, Request, urlopen

WHOLE_PARTS = ('source-url', 'source-document', 'file', 'reasoning-file', 'custom', 'steering-message')
CALL_STATES = {'input-start': 'input-streaming', 'input-delta': 'input-streaming', 'input-error': 'output-error',
               'approval-request': 'approval-requested', 'approval-response': 'approval-responded'}
SAID_ANEW = ('input', 'rawInput', 'output', 'errorText', 'preliminary')
FAILURES = (OSError, HTTPException, ValueError)
OUTCOMES = ('message.ai_response', 'message.error', 'message.stopped')

class Attempt:
    """Counts the chunks of one attempt (P54), and folds them onto its reply (P53)."""
    def __init__(self, number, index, reply):
        self.number, self.next, self.reply, self.texts, self.stored = number, index, reply, {}, reply['metadata']
    def push(self, chunk):
        kind, parts, key = chunk['type'], self.reply['parts'], (chunk['type'].split('-')[0], chunk.get('id'))
        self.reply['status'] = 'streaming'
        if kind == 'start-step':
            parts.append({'type': 'step-start'})
        elif kind in ('text-start', 'reasoning-start'):
            said = picked(chunk, 'providerMetadata', *['id'] * (key[0] == 'reasoning'))
            parts.append({'type': key[0], 'text': '', 'state': 'streaming'} | said)
            self.texts[key] = parts[-1]
        elif kind.endswith(('-delta', '-end')) and key in self.texts:
            is_end = kind.endswith('end')
            part, state = self.texts.pop(key) if is_end else self.texts[key], 'done' if is_end else 'streaming'
            part.update(picked(chunk, 'providerMetadata'), text=part['text'] + chunk.get('delta', ''), state=state)
        elif key[0] == 'tool':
            self.push_call(kind[5:], chunk)
        elif kind in WHOLE_PARTS or kind.startswith('data-') and not chunk.get('transient'):
            same = kind.startswith('data-') and chunk.get('id')
            at = place(parts, lambda part: same and (part['type'], part.get('id')) == (kind, same))
            parts[at:at + 1] = [chunk]
        elif kind == 'reset-step':
            del parts[step_start(parts):]
        elif kind in ('start', 'finish', 'message-metadata') and chunk.get('messageMetadata'):
            self.reply['metadata'] = merged(self.reply['metadata'], chunk['messageMetadata'])
    def push_call(self, kind, chunk):
        parts, is_input, approval = self.reply['parts'], kind.startswith('input'), chunk.get('approvalId')
        since = step_start(parts) if is_input else 0  # An id may be used again in a later step (P58).
        at = since + place(parts[since:], lambda part: part.get('approval', {}).get('id') == approval
                           if kind == 'approval-response' else part.get('toolCallId') == chunk['toolCallId'])
        if at == len(parts) and 'toolName' not in chunk:
            return
        named = {'type': 'dynamic-tool'} | picked(chunk, 'toolName') if chunk.get('dynamic') else {}
        part = (parts[at:] or [{'type': f"tool-{chunk['toolName']}"} | picked(chunk, 'toolCallId') | named])[0]
        said = {'state': CALL_STATES.get(kind, kind)} | picked(chunk, 'title', 'providerExecuted', 'toolMetadata')
        whose = 'result' if said['state'] in ('output-available', 'output-error') else 'call'
        said |= {f'{whose}ProviderMetadata': chunk['providerMetadata']} if 'providerMetadata' in chunk else {}
        if approval:
            answer = part['approval'] | picked(chunk, 'approved', 'reason') if kind == 'approval-response' else {}
            said['approval'] = {'id': approval} | answer | picked(chunk, 'isAutomatic')
        elif kind != 'output-denied':
            said |= picked(part, *() if is_input else ('input',)) | picked(chunk, *SAID_ANEW)
            if kind == 'input-delta':
                said |= {'rawInput': (raw := part.get('rawInput', '') + chunk['inputTextDelta'])} | so_far(raw)
            part = {key: part[key] for key in part if key not in SAID_ANEW}
        parts[at:at + 1] = [part | said]

def step_start(parts):
    return max((at + 1 for at, part in enumerate(parts) if part['type'] == 'step-start'), default=0)
def place(parts, matches):
    return next((at for at in reversed(range(len(parts))) if matches(parts[at])), len(parts))
def picked(source, *keys):
    return {key: source[key] for key in keys if key in source}
def merged(old, new):
    both = isinstance(old, dict) and isinstance(new, dict)
    return old | {key: merged(old.get(key), value) for key, value in new.items()} if both else new
class View:
    """What is shown of a session: its messages, its turns without an outcome and its members, by id, and the cursor."""
    def __init__(self, snapshot):
        self.messages, self.turns = ({each['id']: each for each in snapshot[key]} for key in ('messages', 'turns'))
        self.cursor, self.attempts = snapshot['cursor'], {}
        self.members = {each['userId']: each for each in snapshot['members']}
        for one in snapshot['open']:
            attempt = self.attempts[one['replyId']] = Attempt(one['attempt'], one['index'], self.message(one['replyId']))
            for chunk in one['chunks']:
                attempt.push(chunk)
    def shown(self):
        turns = sorted(self.turns.values(), key=lambda turn: self.message(turn['messageId']).get('seq', math.inf))
        messages, members = [*self.messages.values()], [*self.members.values()]
        return {'messages': messages, 'turns': turns, 'members': members, 'cursor': self.cursor}
    def take(self, frame):
        """Takes a frame in. False: it does not lead on, load the snapshot."""
        if 'cursor' not in frame:  # Control and passing frames.
            return frame['type'] != 'reset'
        if leads_on := frame['after'] == self.cursor and self.take_in(frame):
            self.cursor = frame['cursor']
        return leads_on
    def take_in(self, frame):
        if frame['type'] != 'chunk':
            return self.take_event(frame['type'], frame['data'], frame['seq'])
        attempt = self.attempts.get(frame['messageId'])
        if attempt is None or (attempt.number, attempt.next) != (frame['attempt'], frame['index']):
            return False
        for chunk in frame['chunks']:
            attempt.push(chunk)
        attempt.next += frame['n']
        return True
    def take_event(self, kind, data, seq):
        if kind == 'member.left':
            self.members.pop(data['userId'], None)
        elif kind.startswith('member.'):
            of = data['member']['userId']
            self.members[of] = self.members.get(of, data['member']) | picked(data['member'], 'role')
        if kind in ('message.created', 'turn.waiting', 'approval.answered', 'turn.queued'):
            self.turns[data['turn']['id']] = data['turn']
        replaces = kind in ('turn.waiting', 'message.changed', *OUTCOMES) and data['message']['id'] in self.messages
        if replaces or kind in ('message.created', 'message.said'):
            self.messages[data['message']['id']] = data['message']
            self.attempts.pop(data['message']['id'], None)
        if kind in OUTCOMES:
            reply, asked, why = data['message'], self.message(data['message']['repliesTo']), data.get('reason')
            self.turns = {key: turn for key, turn in self.turns.items() if turn['replyId'] != reply['id']}
            if reply['status'] == 'failed':
                asked['error'] = picked(data, 'code', 'error', 'canRetry', 'retryAfterMs')
            for gone in {'withdrawn': (reply['id'], reply['repliesTo']), 'steered': (reply['id'],)}.get(why, ()):
                self.messages.pop(gone, None)
            return not (why == 'withdrawn' and asked.get('branch'))
        if kind == 'message.created':
            self.show_empty(data['turn'], seq)
            return not data['message'].get('branch')
        if kind == 'turn.queued':
            asked, new = data['turn']['messageId'], data['turn']['replyId']
            self.message(asked)['error'] = None
            old = next((each for each in self.messages.values() if each['repliesTo'] == asked), {})
            branch = old.get('branch') or {'index': 0, 'count': 1, 'previous': None, 'next': None}
            at, leads_on = branch['count'], [*self.messages][-1:] == [old.get('id')] and not branch['next']
            old['branch'] = branch | {'count': at + 1, 'next': branch['next'] or new}
            if data['shown']:
                self.messages.pop(old.get('id'), None)
                self.show_empty(data['turn'], seq)
                self.messages[new]['branch'] = {'index': at, 'count': at + 1, 'previous': old.get('id'), 'next': None}
                return leads_on
        if kind == 'attempt.started':
            reply, before = self.message(data['replyId']), self.attempts.get(data['replyId'])
            reply.update(parts=data['base'], metadata=before.stored if before else reply['metadata'])
            self.attempts[data['replyId']] = Attempt(data['attempt'], 0, reply)
        if kind in ('attempt.started', 'attempt.ended') and (turn := self.turns.get(data['turnId'])):
            plain = {key: turn[key] for key in turn if key not in ('dueAt', 'waitingFor', 'approvals', 'toolCalls')}
            due, state = {'dueAt': data.get('retryAt')}, 'running' if kind == 'attempt.started' else 'queued'
            self.turns[turn['id']] = plain | {'state': state, 'attempt': data['attempt']} | (due if due['dueAt'] else {})
        if kind == 'approval.answered' and 'part' in data:
            parts = self.message(data['messageId'])['parts']
            at = place(parts, lambda part: part.get('toolCallId') == data['toolCallId'])
            parts[at:at + 1] = [data['part']]
        return kind != 'branch.selected'
    def show_empty(self, turn, seq):
        self.messages[turn['replyId']] = self.message(turn['messageId']) | {
            'id': turn['replyId'], 'role': 'assistant', 'repliesTo': turn['messageId'], 'round': turn['round'], 'seq': seq,
            'parts': [], 'status': 'pending', 'metadata': None, 'error': None, 'author': None, 'branch': None}
    def message(self, message_id):
        return self.messages.get(message_id, {'parts': [], 'metadata': None})  # Of another branch: one that nobody sees.

class Client:
    def __init__(self, url, token):
        self.url, self.headers = url, {'authorization': f'Bearer {token}', 'content-type': 'application/json'}
    def open(self, path, body=None, accept='application/json'):
        request = Request(self.url + path, body and json.dumps(body).encode(), self.headers | {'accept': accept})
        return urlopen(request, timeout=45)  # 45 seconds without a word are too long (P41).
    def ask(self, path, body=None):
        """Asks until there is an answer. The id in a body makes that safe (P20, P31)."""
        for failed in itertools.count():
            try:
                with self.open(path, body) as answer:
                    return json.load(answer)
            except FAILURES as error:
                rest(error, failed)
    def poll(self, session, view):
        while True:
            answer = self.ask(f'{session}/events?wait=25&cursor={view.cursor}')
            yield from answer['frames']
            view.cursor = answer['cursor']
    def stream(self, session, view):
        with self.open(f'{session}/events?cursor={view.cursor}', accept='text/event-stream') as lines:
            yield from (json.loads(line[5:]) for line in lines if line.startswith(b'data:'))
    def follow(self, session, way):
        """Yields the view after each frame. Comes back by its cursor (P50), and loads the snapshot where it must."""
        view, failed = View(self.ask(session)), 0
        while True:
            yield view
            try:
                for frame in way(session, view):
                    failed = 0
                    if frame['type'] == 'reconnect':
                        time.sleep(frame['afterMs'] / 1000)
                    if not view.take(frame):
                        view = View(self.ask(session))
                        break
                    yield view
                rest(None, failed)
            except FAILURES as error:
                rest(error, failed)
            failed += 1

def rest(error, failed):
    """At once the first time, then after growing pauses (P50). What was refused for good is not tried again (P61)."""
    refused = isinstance(error, HTTPError)
    problem = json.load(error) if refused and 'json' in error.headers.get('content-type', '') else {}
    if refused and not problem.get('retryable', error.code >= 500):
        raise RuntimeError(f"{error.code} {problem.get('code')}: {problem.get('detail')}")
    pause = min(10, 2 ** min(failed, 6) / 4) * random.uniform(0.5, 1)
    time.sleep(max(problem.get('retryAfterMs', 0) / 1000, pause if failed else 0))
