"""Plays the cases with the client (`--cases DIR`), or chats by it: `--chat URL SESSION TEXT (poll | stream)`, with the token
in HOLDFAST_TOKEN, prints what is shown whenever it has changed."""
import json, os, sys, uuid
from pathlib import Path
from holdfast_client import Client, View

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

{'--cases': play, '--chat': chat}[sys.argv[1]](*sys.argv[2:])
