"""A client of Holdfast, written from PROTOCOL.md alone for Python 3.11 without packages. `--cases DIR` plays the cases.
`--chat URL SESSION TEXT (poll | stream)`, with the token in HOLDFAST_TOKEN, prints what is shown whenever it has changed."""
import itertools, json, os, random, sys, time, uuid
from http.client import HTTPException
from pathlib import Path
from urllib.request import HTTPError, Request, urlopen

WHOLE_PARTS = ('source-url', 'source-document', 'file', 'reasoning-file', 'custom', 'steering-message')
TOOL_STATES = {'input-start': 'input-streaming', 'input-error': 'output-error', 'approval-request': 'approval-requested'}
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
            named = {'id': chunk['id']} if key[0] == 'reasoning' else {}
            self.texts[key] = {'type': key[0], 'text': '', 'state': 'streaming'} | named | picked(chunk, 'providerMetadata')
            parts.append(self.texts[key])
        elif kind in ('text-delta', 'text-end', 'reasoning-delta', 'reasoning-end'):
            text, state = self.texts[key]['text'] + chunk.get('delta', ''), 'done' if kind.endswith('end') else 'streaming'
            self.texts[key].update(picked(chunk, 'providerMetadata'), text=text, state=state)
        elif key[0] == 'tool' and 'toolCallId' in chunk and 'inputTextDelta' not in chunk:  # The input is shown when whole.
            since = place(parts, lambda part: part['type'] == 'step-start') if kind.startswith('tool-input') else 0
            at = since + place(parts[since:], lambda part: part.get('toolCallId') == chunk['toolCallId'])
            fresh = picked(chunk, 'toolName') | {'type': 'dynamic-tool'} if chunk.get('dynamic') else {
                'type': f"tool-{chunk.get('toolName')}"}
            said = picked(chunk, 'toolCallId', 'input', 'output', 'errorText', 'title', 'providerExecuted')
            said |= {'approval': {'id': chunk['approvalId']}} if 'approvalId' in chunk else {}
            said |= {'callProviderMetadata': chunk['providerMetadata']} if 'providerMetadata' in chunk else {}
            said['state'] = TOOL_STATES.get(kind[5:], kind[5:])
            parts[at:at + 1] = [(parts[at] if at < len(parts) else fresh) | said]
        elif kind in WHOLE_PARTS or kind.startswith('data-') and not chunk.get('transient'):
            same = kind.startswith('data-') and chunk.get('id')
            at = place(parts, lambda part: same and (part['type'], part.get('id')) == (kind, same))
            parts[at:at + 1] = [chunk]
        elif kind == 'reset-step':
            del parts[place(parts, lambda part: part['type'] == 'step-start') + 1:]
        elif kind in ('start', 'finish', 'message-metadata') and chunk.get('messageMetadata'):
            self.reply['metadata'] = merged(self.reply['metadata'], chunk['messageMetadata'])

def place(parts, matches):
    return next((at for at in reversed(range(len(parts))) if matches(parts[at])), len(parts))
def picked(source, *keys):
    return {key: source[key] for key in keys if key in source}
def merged(old, new):
    both = isinstance(old, dict) and isinstance(new, dict)
    return old | {key: merged(old.get(key), value) for key, value in new.items()} if both else new
class View:
    """What is shown of a session: its messages and its turns without an outcome, by id and in order, and the cursor."""
    def __init__(self, snapshot):
        self.messages, self.turns = ({each['id']: each for each in snapshot[key]} for key in ('messages', 'turns'))
        self.cursor, self.attempts = snapshot['cursor'], {}
        for one in snapshot['open']:
            attempt = self.attempts[one['replyId']] = Attempt(one['attempt'], one['index'], self.message(one['replyId']))
            for chunk in one['chunks']:
                attempt.push(chunk)
    def shown(self):
        return {'messages': list(self.messages.values()), 'turns': list(self.turns.values()), 'cursor': self.cursor}
    def take(self, frame):
        """Takes a frame in. False: it does not lead on, load the snapshot."""
        if 'cursor' not in frame:  # Control and passing frames.
            return frame['type'] != 'reset'
        if leads_on := frame['after'] == self.cursor and self.take_in(frame):
            self.cursor = frame['cursor']
        return leads_on
    def take_in(self, frame):
        if frame['type'] != 'chunk':
            return self.take_event(frame['type'], frame['data'])
        attempt = self.attempts.get(frame['messageId'])
        if attempt is None or (attempt.number, attempt.next) != (frame['attempt'], frame['index']):
            return False
        for chunk in frame['chunks']:
            attempt.push(chunk)
        attempt.next += frame['n']
        return True
    def take_event(self, kind, data):
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
            self.show_empty(data['turn'])
            return not data['message'].get('branch')
        if kind == 'turn.queued':
            self.message(data['turn']['messageId'])['error'] = None
            if data['shown']:  # Only where the old reply is the last message nothing that stood after it can have gone.
                old = self.messages.popitem()[1] if self.messages else {}
                self.show_empty(data['turn'])
                return old.get('repliesTo') == data['turn']['messageId']
        if kind == 'attempt.started':
            reply, before = self.message(data['replyId']), self.attempts.get(data['replyId'])
            reply.update(parts=data['base'], metadata=before.stored if before else reply['metadata'])
            self.attempts[data['replyId']] = Attempt(data['attempt'], 0, reply)
        if kind in ('attempt.started', 'attempt.ended') and (turn := self.turns.get(data['turnId'])):
            turn.pop('dueAt', None)
            turn.update(state='running' if kind == 'attempt.started' else 'queued', attempt=data['attempt'])
            turn.update({'dueAt': data['retryAt']} if data.get('retryAt') else {})
        if kind == 'approval.answered' and 'part' in data:
            parts = self.message(data['messageId'])['parts']
            at = place(parts, lambda part: part.get('toolCallId') == data['toolCallId'])
            parts[at:at + 1] = [data['part']]
        return kind != 'branch.selected'
    def show_empty(self, turn):
        self.messages[turn['replyId']] = self.message(turn['messageId']) | {
            'id': turn['replyId'], 'role': 'assistant', 'repliesTo': turn['messageId'], 'round': turn['round'], 'parts': [],
            'status': 'pending', 'metadata': None, 'error': None, 'author': None, 'branch': None}
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

def play(directory):
    for path in sorted(Path(directory).glob('*.json')):
        case = json.loads(path.read_text('utf-8'))
        for given in case['given']:
            if 'snapshot' in given:
                view = View(given['snapshot'])
            elif view.take(given['frame']) != given['leadsOn']:
                sys.exit(f"{path}: leadsOn is not {given['leadsOn']} of {json.dumps(given['frame'])}")
        for message in [*view.messages.values(), *case['shown']['messages']]:
            message.pop('createdAt', None), message.pop('updatedAt', None)
        if view.shown() != case['shown']:
            sys.exit(f"{path} shows\n{json.dumps(view.shown())}\nnot\n{json.dumps(case['shown'])}")

def chat(url, session_id, text, way):
    client, session = Client(url, os.environ['HOLDFAST_TOKEN']), f'/v1/sessions/{session_id}'
    client.ask('/v1/sessions', {'id': session_id})
    turn = client.ask(f'{session}/messages', {'id': str(uuid.uuid4()), 'text': text})['turn']
    for view in client.follow(session, getattr(client, way)):
        print(json.dumps(view.shown()), flush=True)
        if turn['id'] not in view.turns:
            return

if __name__ == '__main__':
    {'--cases': play, '--chat': chat}[sys.argv[1]](*sys.argv[2:])
