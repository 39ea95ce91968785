-- Rows of the queue in every state, for the tables of 0001_baseline.sql.
-- Made by `python -m tests.queue.data.make_installation`: do not edit.

INSERT INTO public.tenants (id, name, created_at, changed_at, disabled_at, limits) VALUES
	('ann', 'ann', '2026-11-27 18:03:07.415627+00', '2026-11-27 18:03:07.415627+00', NULL, '{}'),
	('bob', 'bob', '2026-11-27 18:03:07.518595+00', '2026-11-27 18:03:07.518595+00', NULL, '{}'),
	('carl', 'carl', '2026-11-27 18:03:07.632212+00', '2026-11-27 18:03:07.632212+00', '2026-11-27 18:03:07.754866+00', '{}');

INSERT INTO public.api_keys (id, tenant, digest, scopes, endpoints, name, person, created_at, expires_at, revoked_at, last_used_at, successor, replay_undelivered) VALUES
	('dk_valid', 'ann', '\x8fd6a6a78f5857d7ba1cfe9033bffeec86da2ba6a4bd60a6f833209d9d3e390d', '{admin,api}', '{}', 'valid', '', '2026-11-27 18:03:07.433465+00', NULL, NULL, NULL, NULL, false),
	('dk_replaying', 'ann', '\x8fd6a6a78f5857d7ba1cfe9033bffeec86da2ba6a4bd60a6f833209d9d3e390d', '{api}', '{}', '', '', '2026-11-27 18:03:07.492808+00', NULL, NULL, NULL, NULL, true),
	('dk_expired', 'bob', '\x8fd6a6a78f5857d7ba1cfe9033bffeec86da2ba6a4bd60a6f833209d9d3e390d', '{api}', '{}', '', '', '2026-11-27 18:03:07.549938+00', '2026-11-27 18:03:07.383761+00', NULL, NULL, NULL, false),
	('dk_revoked', 'bob', '\x8fd6a6a78f5857d7ba1cfe9033bffeec86da2ba6a4bd60a6f833209d9d3e390d', '{api}', '{}', '', '', '2026-11-27 18:03:07.584982+00', NULL, '2026-11-27 18:03:07.611614+00', NULL, NULL, false),
	('dk_of_a_disabled_tenant', 'carl', '\x8fd6a6a78f5857d7ba1cfe9033bffeec86da2ba6a4bd60a6f833209d9d3e390d', '{api}', '{}', '', '', '2026-11-27 18:03:07.667483+00', NULL, NULL, NULL, NULL, false);

INSERT INTO public.artifacts (key, request_id, attempt, tenant, media_type, size, sha256, width, height, created_at, expires_at, thumbnail_of) VALUES
	('019b0000-0000-7000-8000-000000000000/1/0.png', '019b0000-0000-7000-8000-000000000000', 1, 'ann', 'image/png', 3, 'abababababababababababababababababababababababababababababababab', 8, 8, '2026-11-27 18:03:08.190666+00', NULL, NULL),
	('019b0000-0000-7000-8000-000000000001/1/0.png', '019b0000-0000-7000-8000-000000000001', 8, 'ann', 'image/png', 3, 'abababababababababababababababababababababababababababababababab', 8, 8, '2026-11-27 18:03:10.24982+00', NULL, NULL),
	('019b0000-0000-7000-8000-000000000003/1/0.png', '019b0000-0000-7000-8000-000000000003', 1, 'ann', 'image/png', 3, 'abababababababababababababababababababababababababababababababab', 8, 8, '2026-11-27 18:03:10.684088+00', NULL, NULL),
	('019b0000-0000-7000-8000-00000000000e/1/0.png', '019b0000-0000-7000-8000-00000000000e', 1, 'bob', 'image/png', 3, 'abababababababababababababababababababababababababababababababab', 8, 8, '2026-11-27 18:03:11.110696+00', NULL, NULL),
	('019b0000-0000-7000-8000-00000000000c/1/0.png', '019b0000-0000-7000-8000-00000000000c', 1, 'ann', 'image/png', 3, 'abababababababababababababababababababababababababababababababab', 8, 8, '2026-11-27 18:03:12.409026+00', NULL, NULL),
	('019b0000-0000-7000-8000-00000000000b/1/0.png', '019b0000-0000-7000-8000-00000000000b', 1, 'ann', 'image/png', 3, 'abababababababababababababababababababababababababababababababab', 8, 8, '2026-11-27 18:03:13.064277+00', NULL, NULL);

INSERT INTO public.attempts (request_id, attempt, nonce, replica_id, actor_id, endpoint, node, started_at, ended_at, ended, message, run_s, steps, units, collected) VALUES
	('019b0000-0000-7000-8000-000000000000', 1, 3447894126229148, 'r1', 'actor-r1', NULL, NULL, '2026-11-27 18:03:08.078779+00', '2026-11-27 18:03:08.190666+00', 'succeeded', 'Succeeded.', 1.5, 4, 1, false),
	('019b0000-0000-7000-8000-000000000001', 1, 5622057577261619, 'r1', 'actor-r1', NULL, NULL, '2026-11-27 18:03:08.452659+00', '2026-11-27 18:03:08.630512+00', 'retry', 'It went wrong: pipeline_failed.', 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000001', 2, 8719676302053171, 'r1', 'actor-r1', NULL, NULL, '2026-11-27 18:03:08.694327+00', '2026-11-27 18:03:08.742907+00', 'hand_back', 'Replica r1 handed the request back: It drains.', 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000001', 3, 2828545009408324, 'r1', 'actor-r1', NULL, NULL, '2026-11-27 18:03:08.765339+00', '2026-11-27 18:03:08.905533+00', 'undo', 'The replica disconnected', 0, 0, 0, false),
	('019b0000-0000-7000-8000-000000000001', 4, 1142235170661702, 'r1', 'actor-r1', NULL, NULL, '2026-11-27 18:03:09.024478+00', '2026-11-27 18:03:09.13224+00', 'by_hand', 'Taken from its replica by an operator', 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000001', 5, 6145669823844175, 'stopped', 'actor-stopped', NULL, NULL, '2026-11-27 18:03:09.176956+00', '2026-11-27 18:03:09.397284+00', 'stopped', 'Darkroom was stopped, and with it replica stopped', 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000001', 6, 7536125201022397, 'dead', 'actor-dead', NULL, NULL, '2026-11-27 18:03:09.593406+00', '2026-11-27 18:03:09.742477+00', 'lost', 'The process ended on replica dead', 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000001', 7, 8711515368511703, 'cut off', 'actor-cut off', NULL, NULL, '2026-11-27 18:03:09.829265+00', '2026-11-27 18:03:10.094193+00', 'interrupted', 'The cluster or the node failed under replica cut off', 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000001', 8, 4907265136712933, 'r1', 'actor-r1', NULL, NULL, '2026-11-27 18:03:10.225109+00', '2026-11-27 18:03:10.24982+00', 'succeeded', 'Succeeded.', 1.5, 4, 1, false),
	('019b0000-0000-7000-8000-000000000003', 1, 5985612204145553, 'r1', 'actor-r1', NULL, NULL, '2026-11-27 18:03:10.576688+00', '2026-11-27 18:03:10.684088+00', 'succeeded', 'Succeeded.', 1.5, 4, 1, false),
	('019b0000-0000-7000-8000-000000000005', 1, 6289949616597139, 'r1', 'actor-r1', NULL, NULL, '2026-11-27 18:03:10.776372+00', '2026-11-27 18:03:10.801068+00', 'died', 'It went wrong: replica_died.', 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000005', 2, 584618532266208, 'r1', 'actor-r1', NULL, NULL, '2026-11-27 18:03:10.834545+00', '2026-11-27 18:03:10.853084+00', 'failed', 'It went wrong: pipeline_failed.', 0, 0, 0, true),
	('019b0000-0000-7000-8000-00000000000e', 1, 8063274199452639, 'r1', 'actor-r1', NULL, NULL, '2026-11-27 18:03:11.030337+00', '2026-11-27 18:03:11.110696+00', 'succeeded', 'Succeeded.', 1.5, 4, 1, false),
	('019b0000-0000-7000-8000-000000000008', 1, 7561708827315727, 'r1', 'actor-r1', NULL, NULL, '2026-11-27 18:03:11.485908+00', '2026-11-27 18:03:11.662324+00', 'cancelled', 'The request was cancelled.', 0, 0, 0, true),
	('019b0000-0000-7000-8000-00000000000a', 1, 7103687208560751, 'r1', 'actor-r1', NULL, NULL, '2026-11-27 18:03:11.944051+00', '2026-11-27 18:03:11.962435+00', 'expired', 'The request did not end within the time that its X-Darkroom-Deadline allowed.', 0, 0, 0, true),
	('019b0000-0000-7000-8000-00000000000c', 1, 3405385673806112, 'r1', 'actor-r1', NULL, NULL, '2026-11-27 18:03:12.312848+00', '2026-11-27 18:03:12.409026+00', 'succeeded', '', 1.5, 4, 1, false),
	('019b0000-0000-7000-8000-00000000000b', 1, 1103874029206874, 'r1', 'actor-r1', NULL, NULL, '2026-11-27 18:03:12.997086+00', '2026-11-27 18:03:13.064277+00', 'succeeded', 'Succeeded.', 1.5, 4, 1, false),
	('019b0000-0000-7000-8000-00000000000d', 1, 425440152161044, 'r1', 'actor-r1', NULL, NULL, '2026-11-27 18:03:13.356635+00', '2026-11-27 18:03:13.496924+00', 'succeeded', 'Succeeded.', 2, 0, 0, false),
	('019b0000-0000-7000-8000-00000000000f', 1, 5166907141193775, 'r1', 'actor-r1', NULL, NULL, '2026-11-27 18:03:14.514064+00', NULL, NULL, '', 0, 0, 0, false),
	('019b0000-0000-7000-8000-000000000011', 1, 2070644966147528, 'r2', 'actor-r2', NULL, NULL, '2026-11-27 18:03:14.736131+00', NULL, NULL, '', 0, 0, 0, false),
	('019b0000-0000-7000-8000-000000000012', 1, 1745086746472494, 'r3', 'actor-r3', NULL, NULL, '2026-11-27 18:03:14.831612+00', NULL, NULL, '', 0, 0, 0, false),
	('019b0000-0000-7000-8000-000000000010', 1, 7367145306803327, 'r4', 'actor-r4', NULL, NULL, '2026-11-27 18:03:14.961789+00', NULL, NULL, '', 0, 0, 0, false),
	('019b0000-0000-7000-8000-000000000018', 1, 7289384834657953, 'r1', 'actor-r1', NULL, NULL, '2026-11-27 18:03:15.093926+00', '2026-11-27 18:03:15.227141+00', 'hand_back', 'Replica r1 handed the request back: It drains.', 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000017', 1, 5283306345402847, 'dead too', 'actor-dead too', NULL, NULL, '2026-11-27 18:03:15.061237+00', '2026-11-27 18:03:15.286224+00', 'lost', 'The process ended on replica dead too', 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000019', 1, 8336166814576351, 'r1', 'actor-r1', NULL, NULL, '2026-11-27 18:03:15.116948+00', '2026-11-27 18:03:15.293186+00', 'by_hand', 'Taken from its replica by an operator', 0, 0, 0, true);

INSERT INTO public.audit (id, at, actor, address, action, subject, detail, sequence, tenant, previous, hash) OVERRIDING SYSTEM VALUE VALUES
	(1, '2026-11-27 18:03:07.439444+00', 'operator', '', 'key.create', 'dk_valid', '{"tenant": "ann", "alias": "valid", "scopes": ["admin", "api"]}', 1, 'ann', '0000000000000000000000000000000000000000000000000000000000000000', '9b35465918f4253ec834d723896dbc9e9d93fec1a05bd804bced29c602440cc7'),
	(2, '2026-11-27 18:03:07.611614+00', 'dk_valid', '', 'key.revoke', 'dk_revoked', '{"tenant" : "bob"}', 2, 'bob', '9b35465918f4253ec834d723896dbc9e9d93fec1a05bd804bced29c602440cc7', '0fa5365354596d9158e5fba04d4269e093cf09b7cb4612561d540682e3852e79'),
	(3, '2026-11-27 18:03:07.903527+00', 'dk_valid', '', 'webhook.rotate', 'whk_5391e5ccf0380aec', '{"at_once":false}', 3, '', '0fa5365354596d9158e5fba04d4269e093cf09b7cb4612561d540682e3852e79', '811e5a8a2233c869cfe1c51b0ffd03af4a7f46d531d0389f3403e3f46db273b7'),
	(4, '2026-11-27 18:03:09.13224+00', 'dk_valid', '', 'request.requeue', '019b0000-0000-7000-8000-000000000001', '{}', 4, 'ann', '811e5a8a2233c869cfe1c51b0ffd03af4a7f46d531d0389f3403e3f46db273b7', '44a04f4a357784b8a5822c799f857a4513e0bc281a198ba1c5376bd356028b32'),
	(5, '2026-11-27 18:03:10.997707+00', 'dk_valid', '', 'request.fail', '019b0000-0000-7000-8000-000000000006', '{"reason":"It blocks the others."}', 5, 'ann', '44a04f4a357784b8a5822c799f857a4513e0bc281a198ba1c5376bd356028b32', 'eb5f2898c180f06d560859798bcbfcac6b9769936a4441f9b913aae921547e73'),
	(6, '2026-11-27 18:03:13.82269+00', 'dk_valid', '', 'webhook.redeliver', '019b0000-0000-7000-8000-000000000004', NULL, 6, 'ann', 'eb5f2898c180f06d560859798bcbfcac6b9769936a4441f9b913aae921547e73', '705f76ea73788fd7e78dacdbb18b6e466072f81db0d875e77ba48dba03136d99'),
	(7, '2026-11-27 18:03:15.293186+00', 'dk_valid', '', 'request.requeue', '019b0000-0000-7000-8000-000000000019', '{}', 7, 'ann', '705f76ea73788fd7e78dacdbb18b6e466072f81db0d875e77ba48dba03136d99', 'e699607871e2d8257466cbb49d0f95ad34a0f49c400bc43ec4850d5aa5424916'),
	(8, '2026-11-27 18:03:16.796273+00', 'dk_valid', '', 'endpoint.pause', 'fal-ai/paused', NULL, NULL, NULL, NULL, NULL),
	(9, '2026-11-27 18:03:16.815984+00', 'dk_valid', '', 'endpoint.drain', 'fal-ai/draining', NULL, NULL, NULL, NULL, NULL);

INSERT INTO public.costs (endpoint, pool, n, work, seconds, work_work, work_seconds) VALUES
	('fal-ai/flux/schnell', 'studio', 6.593723337664, 6.593723337664, 9.890585006495998, 6.593723337664, 9.890585006495998),
	('fal-ai/flux/schnell', 'live', 1, 1, 2, 1, 2);

INSERT INTO public.events (request_id, sequence, at, level, state, message) VALUES
	('019b0000-0000-7000-8000-000000000000', 1, '2026-11-27 18:03:07.952575+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000000', 2, '2026-11-27 18:03:08.078779+00', 'INFO', 'running', 'Attempt 1 started on replica r1.'),
	('019b0000-0000-7000-8000-000000000000', 3, '2026-11-27 18:03:08.190666+00', 'INFO', 'succeeded', 'Succeeded.'),
	('019b0000-0000-7000-8000-000000000001', 1, '2026-11-27 18:03:08.414855+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000001', 2, '2026-11-27 18:03:08.452659+00', 'INFO', 'running', 'Attempt 1 started on replica r1.'),
	('019b0000-0000-7000-8000-000000000001', 3, '2026-11-27 18:03:08.630512+00', 'WARNING', 'queued', 'It went wrong: pipeline_failed.; queued again.'),
	('019b0000-0000-7000-8000-000000000001', 4, '2026-11-27 18:03:08.694327+00', 'INFO', 'running', 'Attempt 2 started on replica r1.'),
	('019b0000-0000-7000-8000-000000000001', 5, '2026-11-27 18:03:08.742907+00', 'INFO', 'queued', 'Replica r1 handed the request back: It drains.; queued again.'),
	('019b0000-0000-7000-8000-000000000001', 6, '2026-11-27 18:03:08.765339+00', 'INFO', 'running', 'Attempt 3 started on replica r1.'),
	('019b0000-0000-7000-8000-000000000001', 7, '2026-11-27 18:03:08.905533+00', 'INFO', 'queued', 'The replica disconnected; queued again.'),
	('019b0000-0000-7000-8000-000000000001', 8, '2026-11-27 18:03:09.024478+00', 'INFO', 'running', 'Attempt 4 started on replica r1.'),
	('019b0000-0000-7000-8000-000000000001', 9, '2026-11-27 18:03:09.13224+00', 'INFO', 'queued', 'Taken from its replica by an operator; queued again.'),
	('019b0000-0000-7000-8000-000000000001', 10, '2026-11-27 18:03:09.176956+00', 'INFO', 'running', 'Attempt 5 started on replica stopped.'),
	('019b0000-0000-7000-8000-000000000001', 11, '2026-11-27 18:03:09.397284+00', 'WARNING', 'queued', 'Darkroom was stopped, and with it replica stopped; queued again.'),
	('019b0000-0000-7000-8000-000000000001', 12, '2026-11-27 18:03:09.593406+00', 'INFO', 'running', 'Attempt 6 started on replica dead.'),
	('019b0000-0000-7000-8000-000000000001', 13, '2026-11-27 18:03:09.742477+00', 'WARNING', 'queued', 'The process ended on replica dead; queued again.'),
	('019b0000-0000-7000-8000-000000000001', 14, '2026-11-27 18:03:09.829265+00', 'INFO', 'running', 'Attempt 7 started on replica cut off.'),
	('019b0000-0000-7000-8000-000000000001', 15, '2026-11-27 18:03:10.094193+00', 'WARNING', 'queued', 'The cluster or the node failed under replica cut off; queued again.'),
	('019b0000-0000-7000-8000-000000000001', 16, '2026-11-27 18:03:10.225109+00', 'INFO', 'running', 'Attempt 8 started on replica r1.'),
	('019b0000-0000-7000-8000-000000000001', 17, '2026-11-27 18:03:10.24982+00', 'INFO', 'succeeded', 'Succeeded.'),
	('019b0000-0000-7000-8000-000000000002', 1, '2026-11-27 18:03:10.297699+00', 'INFO', 'succeeded', 'Succeeded. The outcome was reused from request 019b0000-0000-7000-8000-000000000000, which had the same input.'),
	('019b0000-0000-7000-8000-000000000003', 1, '2026-11-27 18:03:10.404297+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000003', 2, '2026-11-27 18:03:10.576688+00', 'INFO', 'running', 'Attempt 1 started on replica r1.'),
	('019b0000-0000-7000-8000-000000000004', 1, '2026-11-27 18:03:10.648281+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000004', 2, '2026-11-27 18:03:10.648281+00', 'INFO', NULL, 'Request 019b0000-0000-7000-8000-000000000003 has the same input; its outcome will be reused.'),
	('019b0000-0000-7000-8000-000000000003', 3, '2026-11-27 18:03:10.684088+00', 'INFO', 'succeeded', 'Succeeded.'),
	('019b0000-0000-7000-8000-000000000004', 3, '2026-11-27 18:03:10.691864+00', 'INFO', 'succeeded', 'Succeeded. The outcome was reused from request 019b0000-0000-7000-8000-000000000003, which had the same input.'),
	('019b0000-0000-7000-8000-000000000005', 1, '2026-11-27 18:03:10.759068+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000005', 2, '2026-11-27 18:03:10.776372+00', 'INFO', 'running', 'Attempt 1 started on replica r1.'),
	('019b0000-0000-7000-8000-000000000005', 3, '2026-11-27 18:03:10.801068+00', 'WARNING', 'queued', 'It went wrong: replica_died.; queued again.'),
	('019b0000-0000-7000-8000-000000000005', 4, '2026-11-27 18:03:10.834545+00', 'INFO', 'running', 'Attempt 2 started on replica r1.'),
	('019b0000-0000-7000-8000-000000000005', 5, '2026-11-27 18:03:10.853084+00', 'ERROR', 'failed', 'It went wrong: pipeline_failed.'),
	('019b0000-0000-7000-8000-000000000006', 1, '2026-11-27 18:03:10.866037+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000006', 2, '2026-11-27 18:03:10.997707+00', 'INFO', 'failed', 'An operator of this installation ended the request: It blocks the others.'),
	('019b0000-0000-7000-8000-00000000000e', 1, '2026-11-27 18:03:11.014421+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-00000000000e', 2, '2026-11-27 18:03:11.030337+00', 'INFO', 'running', 'Attempt 1 started on replica r1.'),
	('019b0000-0000-7000-8000-00000000000e', 3, '2026-11-27 18:03:11.110696+00', 'INFO', 'succeeded', 'Succeeded.'),
	('019b0000-0000-7000-8000-000000000007', 1, '2026-11-27 18:03:11.193006+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000007', 2, '2026-11-27 18:03:11.259803+00', 'INFO', 'cancelled', 'Cancelled while it was queued.'),
	('019b0000-0000-7000-8000-000000000008', 1, '2026-11-27 18:03:11.277062+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000008', 2, '2026-11-27 18:03:11.485908+00', 'INFO', 'running', 'Attempt 1 started on replica r1.'),
	('019b0000-0000-7000-8000-000000000008', 3, '2026-11-27 18:03:11.626688+00', 'INFO', NULL, 'Cancel requested; the request stops at its next step.'),
	('019b0000-0000-7000-8000-000000000008', 4, '2026-11-27 18:03:11.662324+00', 'INFO', 'cancelled', 'The request was cancelled.'),
	('019b0000-0000-7000-8000-000000000009', 1, '2026-11-27 18:03:11.73458+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000009', 2, '2026-11-27 18:03:11.77815+00', 'INFO', 'expired', 'The request did not start within the time that it allowed.'),
	('019b0000-0000-7000-8000-00000000000a', 1, '2026-11-27 18:03:11.859604+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-00000000000a', 2, '2026-11-27 18:03:11.944051+00', 'INFO', 'running', 'Attempt 1 started on replica r1.'),
	('019b0000-0000-7000-8000-00000000000a', 3, '2026-11-27 18:03:11.962435+00', 'INFO', 'expired', 'The request did not end within the time that its X-Darkroom-Deadline allowed.'),
	('019b0000-0000-7000-8000-00000000000b', 1, '2026-11-27 18:03:12.912332+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-00000000000b', 2, '2026-11-27 18:03:12.997086+00', 'INFO', 'running', 'Attempt 1 started on replica r1.'),
	('019b0000-0000-7000-8000-00000000000b', 3, '2026-11-27 18:03:13.064277+00', 'INFO', 'succeeded', 'Succeeded.'),
	('019b0000-0000-7000-8000-00000000000d', 1, '2026-11-27 18:03:13.319264+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-00000000000d', 2, '2026-11-27 18:03:13.356635+00', 'INFO', 'running', 'Attempt 1 started on replica r1.'),
	('019b0000-0000-7000-8000-00000000000d', 3, '2026-11-27 18:03:13.496924+00', 'INFO', 'succeeded', 'Succeeded.'),
	('019b0000-0000-7000-8000-00000000000f', 1, '2026-11-27 18:03:14.449361+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-00000000000f', 2, '2026-11-27 18:03:14.514064+00', 'INFO', 'running', 'Attempt 1 started on replica r1.'),
	('019b0000-0000-7000-8000-000000000011', 1, '2026-11-27 18:03:14.689177+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000011', 2, '2026-11-27 18:03:14.736131+00', 'INFO', 'running', 'Attempt 1 started on replica r2.'),
	('019b0000-0000-7000-8000-000000000011', 3, '2026-11-27 18:03:14.779221+00', 'INFO', NULL, 'Cancel requested; the request stops at its next step.'),
	('019b0000-0000-7000-8000-000000000012', 1, '2026-11-27 18:03:14.801595+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000012', 2, '2026-11-27 18:03:14.831612+00', 'INFO', 'running', 'Attempt 1 started on replica r3.'),
	('019b0000-0000-7000-8000-000000000010', 1, '2026-11-27 18:03:14.87426+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000010', 2, '2026-11-27 18:03:14.961789+00', 'INFO', 'running', 'Attempt 1 started on replica r4.'),
	('019b0000-0000-7000-8000-000000000017', 1, '2026-11-27 18:03:15.044853+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000017', 2, '2026-11-27 18:03:15.061237+00', 'INFO', 'running', 'Attempt 1 started on replica dead too.'),
	('019b0000-0000-7000-8000-000000000018', 1, '2026-11-27 18:03:15.080359+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000018', 2, '2026-11-27 18:03:15.093926+00', 'INFO', 'running', 'Attempt 1 started on replica r1.'),
	('019b0000-0000-7000-8000-000000000019', 1, '2026-11-27 18:03:15.102667+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000019', 2, '2026-11-27 18:03:15.116948+00', 'INFO', 'running', 'Attempt 1 started on replica r1.'),
	('019b0000-0000-7000-8000-000000000018', 3, '2026-11-27 18:03:15.227141+00', 'INFO', 'queued', 'Replica r1 handed the request back: It drains.; queued again.'),
	('019b0000-0000-7000-8000-000000000017', 3, '2026-11-27 18:03:15.286224+00', 'WARNING', 'queued', 'The process ended on replica dead too; queued again.'),
	('019b0000-0000-7000-8000-000000000019', 3, '2026-11-27 18:03:15.293186+00', 'INFO', 'queued', 'Taken from its replica by an operator; queued again.'),
	('019b0000-0000-7000-8000-000000000015', 1, '2026-11-27 18:03:15.580775+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000013', 1, '2026-11-27 18:03:15.402107+00', 'INFO', 'queued', 'Queued. Retries left: timeout 1, server error 2, connection error 0.'),
	('019b0000-0000-7000-8000-000000000013', 2, '2026-11-27 18:03:15.402107+00', 'WARNING', NULL, 'The seed was rounded.'),
	('019b0000-0000-7000-8000-000000000014', 1, '2026-11-27 18:03:15.521835+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-00000000001d', 1, '2026-11-27 18:03:16.766535+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000016', 1, '2026-11-27 18:03:15.597605+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-00000000001a', 1, '2026-11-27 18:03:15.652921+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-00000000001e', 1, '2026-11-27 18:03:15.705084+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-00000000001e', 2, '2026-11-27 18:03:15.705084+00', 'INFO', NULL, 'Request 019b0000-0000-7000-8000-000000000012 has the same input; its outcome will be reused.'),
	('019b0000-0000-7000-8000-00000000001c', 1, '2026-11-27 18:03:16.689535+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-00000000001f', 1, '2026-11-27 18:03:16.254568+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-00000000001f', 2, '2026-11-27 18:03:16.254568+00', 'INFO', NULL, 'Request 019b0000-0000-7000-8000-00000000001a has the same input; its outcome will be reused.'),
	('019b0000-0000-7000-8000-00000000001b', 1, '2026-11-27 18:03:16.641394+00', 'INFO', 'queued', 'Queued.');

INSERT INTO public.fair_lanes (pool, tenant, active, weight, vtime, rested, served, woken_at) VALUES
	('live', 'ann', false, 1, 2.4, true, 0, '2026-11-27 18:03:13.356381+00'),
	('studio', 'ann', true, 1, 18.240997, true, 20.706557, '2026-11-27 18:03:15.227895+00'),
	('studio', 'bob', true, 1, 20.706557, true, 6.993218000000001, '2026-11-27 18:03:16.641876+00'),
	('other', 'ann', true, 1, 0, true, 0, '2026-11-27 18:03:16.672282+00');

INSERT INTO public.halts (endpoint, kind, at, actor) VALUES
	('fal-ai/paused', 'paused', '2026-11-27 18:03:16.796273+00', 'dk_valid'),
	('fal-ai/draining', 'draining', '2026-11-27 18:03:16.815984+00', 'dk_valid');

INSERT INTO public.installation (key, value) VALUES
	('tickets', 'd2df4dc0c3fc4418e40baf58cf83d52ed70836d43f64795d80e9447fdc6ca1eb');

INSERT INTO public.leaders (name, holder, until) VALUES
	('table sizes', 'ingress-1', '2026-11-27 18:06:07.480753+00'),
	('budgets', 'ingress-1', '2026-11-27 18:03:37.485759+00'),
	('replica_hours', 'ingress-1', '2026-11-27 18:03:37.488939+00'),
	('retention', 'ingress-1', '2026-11-27 18:06:07.490642+00'),
	('canaries', 'ingress-1', '2026-11-27 18:03:27.659657+00'),
	('audit', 'ingress-1', '2026-11-27 18:03:17.468763+00'),
	('fallbacks', 'ingress-1', '2026-11-27 18:03:30.75507+00'),
	('tenant deletions', 'ingress-1', '2026-11-27 18:03:21.863052+00'),
	('quarantines', 'ingress-1', '2026-11-27 18:03:18.863637+00');

INSERT INTO public.lifecycles (request_id, keep_s, created_at, due_at) VALUES
	('019b0000-0000-7000-8000-000000000000', 3600, '2026-11-27 18:03:07.919102+00', '2026-11-27 19:03:08.190666+00'),
	('019b0000-0000-7000-8000-000000000013', 60, '2026-11-27 18:03:15.35593+00', NULL);

INSERT INTO public.processes (actor_id, kind, name, pool, node, version, cluster, started_at, why_started, drains, seen_at, ended_at, why_ended, by_itself) VALUES
	('actor-stopped', 'replica', 'stopped', 'studio', '', '', '', NULL, '', false, '2026-11-27 18:03:09.332784+00', '2026-11-27 18:03:09.332784+00', 'Darkroom was stopped', false),
	('actor-dead', 'replica', 'dead', 'studio', '', '', '', NULL, '', false, '2026-11-27 18:03:09.70761+00', '2026-11-27 18:03:09.70761+00', 'its process ended', true),
	('actor-cut off', 'replica', 'cut off', 'studio', '', '', '', NULL, '', false, '2026-11-27 18:03:10.072363+00', '2026-11-27 18:03:10.072363+00', 'its node failed', false),
	('actor-dead too', 'replica', 'dead too', 'studio', '', '', '', NULL, '', false, '2026-11-27 18:03:15.251294+00', '2026-11-27 18:03:15.251294+00', 'its process ended', true);

INSERT INTO public.progress (request_id, attempt, stage, step, steps, at, rate, preview, preview_step, watched_until, followed_until) VALUES
	('019b0000-0000-7000-8000-00000000000f', 1, 'denoising', 12, 30, '2026-11-27 18:03:14.599315+00', 2.5, '\xffd8ffe000104a46494600010100000100010000ffd9', 12, '2026-11-27 18:03:19.682143+00', '2026-11-27 18:03:19.693472+00'),
	('019b0000-0000-7000-8000-000000000011', 1, 'downloading', 3000000000, 23000000000, '2026-11-27 18:03:14.769021+00', 100000000, NULL, 0, NULL, NULL);

INSERT INTO public.replicas (replica_id, actor_id, pool, node, device, stage, detail, slots, busy_at, seen_at, loading, hot, warm, on_disk, keep, not_kept, memory_used, memory_total) VALUES
	('r3', 'actor-r3', 'studio', '', '', 'ready', '', 1, '2026-11-27 18:03:15.177926+00', '2026-11-27 18:03:15.177926+00', '[]', '[]', '[]', '[]', NULL, '[]', NULL, NULL),
	('r1', 'actor-r1', 'studio', '', '', 'ready', '', 1, '2026-11-27 18:03:15.339104+00', '2026-11-27 18:03:15.339104+00', '[]', '[]', '[]', '[]', NULL, '[]', NULL, NULL),
	('r2', 'actor-r2', 'studio', '', '', 'ready', '', 1, '2026-11-27 18:03:14.865474+00', '2026-11-27 18:03:14.865474+00', '[]', '[]', '[]', '[]', NULL, '[]', NULL, NULL),
	('r5', 'actor-r5', 'studio', '', '', 'starting', 'downloading a', 1, NULL, '2026-11-27 18:03:15.024487+00', '[{"endpoints":["a"],"stage":"downloading","done":1,"total":34359738368}]', '[]', '[]', '[]', NULL, '[]', NULL, NULL),
	('r6', 'actor-r6', 'studio', '', '', 'draining', '', 1, NULL, '2026-11-27 18:03:15.041967+00', '[]', '[]', '[]', '[]', NULL, '[]', NULL, NULL),
	('r4', 'actor-r4', 'studio', '', '', 'ready', '', 1, NULL, '2026-11-27 18:03:15.150133+00', '[]', '[]', '[]', '[]', NULL, '[]', NULL, NULL);

INSERT INTO public.request_words (tenant, request_id, words) VALUES
	('ann', '019b0000-0000-7000-8000-000000000000', '''@ann'' ''succeeded'''),
	('ann', '019b0000-0000-7000-8000-000000000001', '''@ann'' ''attempts'' ''many'''),
	('ann', '019b0000-0000-7000-8000-000000000002', '''@ann'' ''reused'''),
	('ann', '019b0000-0000-7000-8000-000000000003', '''@ann'' ''leader'''),
	('ann', '019b0000-0000-7000-8000-000000000004', '''@ann'' ''follower'''),
	('ann', '019b0000-0000-7000-8000-000000000005', '''@ann'' ''failed'''),
	('ann', '019b0000-0000-7000-8000-000000000006', '''@ann'' ''by'' ''failed'' ''hand'''),
	('bob', '019b0000-0000-7000-8000-00000000000e', '''@bob'' ''another'' ''of'' ''tenant'''),
	('ann', '019b0000-0000-7000-8000-000000000007', '''@ann'' ''cancelled'''),
	('ann', '019b0000-0000-7000-8000-000000000008', '''@ann'' ''cancelled'' ''it'' ''ran'' ''while'''),
	('ann', '019b0000-0000-7000-8000-000000000009', '''@ann'' ''expired'''),
	('ann', '019b0000-0000-7000-8000-00000000000a', '''@ann'' ''expired'' ''it'' ''ran'' ''while'''),
	('ann', '019b0000-0000-7000-8000-00000000000d', '''@ann'' ''session'''),
	('ann', '019b0000-0000-7000-8000-00000000000f', '''@ann'' ''running'''),
	('ann', '019b0000-0000-7000-8000-000000000011', '''@ann'' ''cancel'' ''requested'''),
	('ann', '019b0000-0000-7000-8000-000000000012', '''@ann'' ''leader'' ''running'''),
	('ann', '019b0000-0000-7000-8000-000000000010', '''@ann'' ''unconfirmed'''),
	('ann', '019b0000-0000-7000-8000-000000000017', '''@ann'' ''suspect'''),
	('ann', '019b0000-0000-7000-8000-000000000018', '''@ann'' ''back'' ''handed'''),
	('ann', '019b0000-0000-7000-8000-000000000019', '''@ann'' ''by'' ''hand'' ''requeued'''),
	('ann', '019b0000-0000-7000-8000-000000000013', '''@ann'' ''queued'''),
	('ann', '019b0000-0000-7000-8000-000000000014', '''@ann'' ''deadlines'' ''with'''),
	('ann', '019b0000-0000-7000-8000-000000000015', '''@ann'' ''a'' ''input'' ''large'' ''with'''),
	('ann', '019b0000-0000-7000-8000-00000000001a', '''@ann'' ''leader'' ''queued'''),
	('ann', '019b0000-0000-7000-8000-00000000001e', '''@ann'' ''a'' ''following'' ''request'' ''running'''),
	('ann', '019b0000-0000-7000-8000-00000000001f', '''@ann'' ''a'' ''following'' ''queued'' ''request'''),
	('bob', '019b0000-0000-7000-8000-00000000001b', '''@bob'' ''another'' ''of'' ''queued'' ''tenant'''),
	('ann', '019b0000-0000-7000-8000-00000000001c', '''@ann'' ''another'' ''in'' ''pool'''),
	('ann', '019b0000-0000-7000-8000-00000000001d', '''@ann'' ''paused''');

INSERT INTO public.requests (id, place, tenant, key_id, endpoint, endpoint_digest, pool, priority, state, input, shown, outcome, events, trace, created_at, started_at, finished_at, start_by, end_by, attempt, lease_nonce, failures, unconfirmed, confirmed, alone, cancel_requested, replica_id, actor_id, lease_until, retries_left, snapshot, snapshot_step, previews, ranked_at, work, expected_s, idempotency_key, body_digest, reuse_digest, reuses, leads, follows, webhook_url, webhook_origin, price, reserved, file_access, upload_policy, draft_key, draft_bytes, fallback, fell_back_to, fell_back_for, steps_stay, deleted_at, forgetting) OVERRIDING SYSTEM VALUE VALUES
	('019b0000-0000-7000-8000-000000000000', 1, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'succeeded', '{"prompt":"succeeded"}', NULL, '{"output":{"images":[{"artifact":"019b0000-0000-7000-8000-000000000000/1/0.png"}],"text":"not for jsonb: \u0000 \ud800"},"artifacts":[{"key":"019b0000-0000-7000-8000-000000000000/1/0.png","media_type":"image/png","size":3,"sha256":"abababababababababababababababababababababababababababababababab","width":8,"height":8,"thumbnail":null}],"failure":null,"usage":{"run_s":1.5,"steps":4,"units":1.0,"share":1.0}}', 3, NULL, '2026-11-27 18:03:07.952575+00', '2026-11-27 18:03:08.078779+00', '2026-11-27 18:03:08.190666+00', NULL, NULL, 1, 3447894126229148, 0, 0, false, false, false, 'r1', NULL, NULL, NULL, NULL, NULL, true, '2026-11-27 18:03:07.952575+00', 1, 1, NULL, NULL, '\x7375636365656465642e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e', NULL, '019b0000-0000-7000-8000-000000000000', NULL, 'https://succeeded.example.com/hook', 'https://darkroom.example.com', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-000000000001', 2, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'succeeded', '{"prompt":"many attempts"}', NULL, '{"output":{"images":[{"artifact":"019b0000-0000-7000-8000-000000000001/1/0.png"}],"text":"not for jsonb: \u0000 \ud800"},"artifacts":[{"key":"019b0000-0000-7000-8000-000000000001/1/0.png","media_type":"image/png","size":3,"sha256":"abababababababababababababababababababababababababababababababab","width":8,"height":8,"thumbnail":null}],"failure":null,"usage":{"run_s":1.5,"steps":4,"units":1.0,"share":1.0}}', 17, NULL, '2026-11-27 18:03:08.414855+00', '2026-11-27 18:03:10.225109+00', '2026-11-27 18:03:10.24982+00', NULL, NULL, 8, 4907265136712933, 2, 1, false, true, false, 'r1', NULL, NULL, NULL, NULL, NULL, true, '2026-11-27 18:03:08.414855+00', 1, 1.5, NULL, NULL, NULL, NULL, NULL, NULL, 'https://many-attempts.example.com/hook', 'https://darkroom.example.com', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-000000000002', 3, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'succeeded', '{"prompt":"reused"}', NULL, '{"output":{"images":[{"artifact":"019b0000-0000-7000-8000-000000000000/1/0.png"}],"text":"not for jsonb: \u0000 \ud800"},"artifacts":[{"key":"019b0000-0000-7000-8000-000000000000/1/0.png","media_type":"image/png","size":3,"sha256":"abababababababababababababababababababababababababababababababab","width":8,"height":8,"thumbnail":null}],"failure":null,"usage":{"run_s":0.0,"steps":0,"units":0.0,"share":1.0}}', 1, NULL, '2026-11-27 18:03:10.297699+00', '2026-11-27 18:03:10.297699+00', '2026-11-27 18:03:10.297699+00', NULL, NULL, 0, 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-27 18:03:10.297699+00', 1, 1, NULL, NULL, NULL, '019b0000-0000-7000-8000-000000000000', NULL, NULL, 'https://reused.example.com/hook', 'https://darkroom.example.com', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-000000000003', 4, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'succeeded', '{"prompt":"leader"}', NULL, '{"output":{"images":[{"artifact":"019b0000-0000-7000-8000-000000000003/1/0.png"}],"text":"not for jsonb: \u0000 \ud800"},"artifacts":[{"key":"019b0000-0000-7000-8000-000000000003/1/0.png","media_type":"image/png","size":3,"sha256":"abababababababababababababababababababababababababababababababab","width":8,"height":8,"thumbnail":null}],"failure":null,"usage":{"run_s":1.5,"steps":4,"units":1.0,"share":1.0}}', 3, NULL, '2026-11-27 18:03:10.404297+00', '2026-11-27 18:03:10.576688+00', '2026-11-27 18:03:10.684088+00', NULL, NULL, 1, 5985612204145553, 0, 0, false, false, false, 'r1', NULL, NULL, NULL, NULL, NULL, true, '2026-11-27 18:03:10.404297+00', 1, 1.4999999999999998, NULL, NULL, '\x6c65616465722e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e', NULL, '019b0000-0000-7000-8000-000000000003', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-000000000004', 5, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'succeeded', '{"prompt":"follower"}', NULL, '{"output":{"images":[{"artifact":"019b0000-0000-7000-8000-000000000003/1/0.png"}],"text":"not for jsonb: \u0000 \ud800"},"artifacts":[{"key":"019b0000-0000-7000-8000-000000000003/1/0.png","media_type":"image/png","size":3,"sha256":"abababababababababababababababababababababababababababababababab","width":8,"height":8,"thumbnail":null}],"failure":null,"usage":{"run_s":0.0,"steps":0,"units":0.0,"share":1.0}}', 3, NULL, '2026-11-27 18:03:10.648281+00', '2026-11-27 18:03:10.691864+00', '2026-11-27 18:03:10.691864+00', NULL, NULL, 0, 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-27 18:03:10.648281+00', 1, 1.4999999999999998, NULL, NULL, NULL, '019b0000-0000-7000-8000-000000000003', NULL, NULL, 'https://follower.example.com/hook', 'https://darkroom.example.com', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-000000000005', 6, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'failed', '{"prompt":"failed"}', NULL, '{"output":null,"artifacts":[],"failure":{"code":"pipeline_failed","message":"It went wrong: pipeline_failed.","retryable":false,"field":null,"type":null,"context":null},"usage":{"run_s":0.0,"steps":0,"units":0.0,"share":1.0}}', 5, NULL, '2026-11-27 18:03:10.759068+00', '2026-11-27 18:03:10.834545+00', '2026-11-27 18:03:10.853084+00', NULL, NULL, 2, 584618532266208, 1, 0, false, true, false, 'r1', NULL, NULL, NULL, NULL, NULL, true, '2026-11-27 18:03:10.759068+00', 1, 1.5, NULL, NULL, NULL, NULL, NULL, NULL, 'https://failed.example.com/hook', 'https://darkroom.example.com', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-000000000006', 7, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'failed', '{"prompt":"failed by hand"}', NULL, '{"output":null,"artifacts":[],"failure":{"code":"failed_by_hand","message":"An operator of this installation ended the request: It blocks the others.","retryable":false,"field":null,"type":null,"context":null},"usage":{"run_s":0.0,"steps":0,"units":0.0,"share":1.0}}', 2, NULL, '2026-11-27 18:03:10.866037+00', NULL, '2026-11-27 18:03:10.997707+00', NULL, NULL, 0, 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-27 18:03:10.866037+00', 1, 1.5, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-00000000000e', 8, 'bob', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'succeeded', '{"prompt":"of another tenant"}', NULL, '{"output":{"images":[{"artifact":"019b0000-0000-7000-8000-00000000000e/1/0.png"}],"text":"not for jsonb: \u0000 \ud800"},"artifacts":[{"key":"019b0000-0000-7000-8000-00000000000e/1/0.png","media_type":"image/png","size":3,"sha256":"abababababababababababababababababababababababababababababababab","width":8,"height":8,"thumbnail":null}],"failure":null,"usage":{"run_s":1.5,"steps":4,"units":1.0,"share":1.0}}', 3, NULL, '2026-11-27 18:03:11.014421+00', '2026-11-27 18:03:11.030337+00', '2026-11-27 18:03:11.110696+00', NULL, NULL, 1, 8063274199452639, 0, 0, false, false, false, 'r1', NULL, NULL, NULL, NULL, NULL, true, '2026-11-27 18:03:11.014421+00', 1, 1.5, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-000000000007', 9, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'cancelled', '{"prompt":"cancelled"}', NULL, '{"output":null,"artifacts":[],"failure":{"code":"cancelled","message":"The request was cancelled.","retryable":false,"field":null,"type":null,"context":null},"usage":{"run_s":0.0,"steps":0,"units":0.0,"share":1.0}}', 2, NULL, '2026-11-27 18:03:11.193006+00', NULL, '2026-11-27 18:03:11.259803+00', NULL, NULL, 0, 0, 0, 0, false, false, true, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-27 18:03:11.193006+00', 1, 1.5, NULL, NULL, NULL, NULL, NULL, NULL, 'https://cancelled.example.com/hook', 'https://darkroom.example.com', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-000000000009', 11, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'expired', '{"prompt":"expired"}', NULL, '{"output":null,"artifacts":[],"failure":{"code":"expired","message":"The request did not start within the time that it allowed.","retryable":false,"field":null,"type":null,"context":null},"usage":{"run_s":0.0,"steps":0,"units":0.0,"share":1.0}}', 2, NULL, '2026-11-27 18:03:11.73458+00', NULL, '2026-11-27 18:03:11.77815+00', '2026-11-27 18:03:11.74458+00', NULL, 0, 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-27 18:03:11.73458+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-000000000008', 10, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'cancelled', '{"prompt":"cancelled while it ran"}', NULL, '{"output":null,"artifacts":[],"failure":{"code":"cancelled","message":"The request was cancelled.","retryable":false,"field":null,"type":null,"context":null},"usage":{"run_s":0.0,"steps":0,"units":0.0,"share":1.0}}', 4, NULL, '2026-11-27 18:03:11.277062+00', '2026-11-27 18:03:11.485908+00', '2026-11-27 18:03:11.662324+00', NULL, NULL, 1, 7561708827315727, 0, 0, false, false, true, 'r1', NULL, NULL, NULL, NULL, NULL, true, '2026-11-27 18:03:11.277062+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-00000000000a', 12, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'expired', '{"prompt":"expired while it ran"}', NULL, '{"output":null,"artifacts":[],"failure":{"code":"expired","message":"The request did not end within the time that its X-Darkroom-Deadline allowed.","retryable":false,"field":null,"type":null,"context":null},"usage":{"run_s":0.0,"steps":0,"units":0.0,"share":1.0}}', 3, NULL, '2026-11-27 18:03:11.859604+00', '2026-11-27 18:03:11.944051+00', '2026-11-27 18:03:11.962435+00', '2026-11-27 18:13:11.859604+00', '2026-11-27 18:13:11.859604+00', 1, 7103687208560751, 0, 0, false, false, false, 'r1', NULL, NULL, NULL, NULL, NULL, true, '2026-11-27 18:03:11.859604+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-000000000020', 13, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'succeeded', '{}', NULL, '{"output":null,"artifacts":[],"failure":null,"usage":{"run_s":0.0,"steps":0,"units":0.0,"share":1.0}}', 3, NULL, '2026-11-27 18:03:11.966913+00', '2026-11-27 18:03:11.972359+00', '2026-11-27 18:03:12.136188+00', NULL, NULL, 1, 7139473089304835, 0, 0, false, false, false, 'r1', NULL, NULL, NULL, NULL, NULL, true, '2026-11-27 18:03:11.966913+00', 1, 1.4999999999999998, 'deleted', '\x6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, '2026-11-27 18:03:12.193283+00', NULL),
	('019b0000-0000-7000-8000-00000000000c', 14, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'succeeded', '{}', NULL, '{"output":null,"artifacts":[],"failure":null,"usage":{"run_s":1.5,"steps":4,"units":1.0,"share":1.0}}', 3, NULL, '2026-11-27 18:03:12.247858+00', '2026-11-27 18:03:12.312848+00', '2026-11-27 16:03:12.409026+00', NULL, NULL, 1, 3405385673806112, 0, 0, false, false, false, 'r1', NULL, NULL, NULL, NULL, NULL, true, '2026-11-27 18:03:12.247858+00', 1, 1.5, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, 'done'),
	('019b0000-0000-7000-8000-00000000000b', 15, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'succeeded', '{}', NULL, '{"output":{"images":[{"artifact":"019b0000-0000-7000-8000-00000000000b/1/0.png"}],"text":"not for jsonb: \u0000 \ud800"},"artifacts":[{"key":"019b0000-0000-7000-8000-00000000000b/1/0.png","media_type":"image/png","size":3,"sha256":"abababababababababababababababababababababababababababababababab","width":8,"height":8,"thumbnail":null}],"failure":null,"usage":{"run_s":1.5,"steps":4,"units":1.0,"share":1.0}}', 3, NULL, '2026-11-27 18:03:12.912332+00', '2026-11-27 18:03:12.997086+00', '2026-11-27 18:03:13.064277+00', NULL, NULL, 1, 1103874029206874, 0, 0, false, false, false, 'r1', NULL, NULL, NULL, NULL, NULL, true, '2026-11-27 18:03:12.912332+00', 1, 1.5, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, 'outcome'),
	('019b0000-0000-7000-8000-000000000018', 22, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'queued', '{"prompt":"handed back"}', NULL, NULL, 3, NULL, '2026-11-27 18:03:15.080359+00', '2026-11-27 18:03:15.093926+00', NULL, NULL, NULL, 1, 7289384834657953, 0, 0, false, false, false, NULL, NULL, NULL, NULL, 's/019b0000-0000-7000-8000-000000000018/1/0.bin', 7, true, '2026-11-27 18:03:15.080359+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-000000000019', 23, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'queued', '{"prompt":"requeued by hand"}', NULL, NULL, 3, NULL, '2026-11-27 18:03:15.102667+00', '2026-11-27 18:03:15.116948+00', NULL, NULL, NULL, 1, 8336166814576351, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-27 18:03:15.102667+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-000000000013', 24, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 2, 'queued', '{"prompt":"queued"}', NULL, NULL, 2, NULL, '2026-11-27 18:03:15.402107+00', NULL, NULL, NULL, NULL, 0, 0, 0, 0, false, false, false, NULL, NULL, NULL, '{1,2,0}', NULL, NULL, true, '2026-11-27 17:53:15.402107+00', 30, 44.99999999999999, 'queued', '\x6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c', NULL, NULL, NULL, NULL, 'https://queued.example.com/hook', 'https://darkroom.example.com', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-000000000014', 25, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'queued', '{"prompt":"with deadlines"}', NULL, NULL, 1, NULL, '2026-11-27 18:03:15.521835+00', NULL, NULL, '2026-11-27 19:03:15.521835+00', '2026-11-27 20:03:15.521835+00', 0, 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, false, '2026-11-27 18:03:15.521835+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-00000000001e', 29, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'following', '{"prompt":"following a running request"}', NULL, NULL, 2, NULL, '2026-11-27 18:03:15.705084+00', NULL, NULL, NULL, NULL, 0, 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-27 18:03:15.705084+00', 1, 1.4999999999999998, NULL, NULL, '\x72756e6e696e67206c65616465722e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e', NULL, NULL, '019b0000-0000-7000-8000-000000000012', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-00000000001c', 32, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'other', 1, 'queued', '{"prompt":"in another pool"}', NULL, NULL, 1, NULL, '2026-11-27 18:03:16.689535+00', NULL, NULL, NULL, NULL, 0, 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-27 18:03:16.689535+00', 1, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-00000000001d', 33, 'ann', NULL, 'fal-ai/paused', '0123456789abcdef', 'studio', 1, 'queued', '{"prompt":"paused"}', NULL, NULL, 1, NULL, '2026-11-27 18:03:16.766535+00', NULL, NULL, NULL, NULL, 0, 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-27 18:03:16.766535+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-00000000000d', 16, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'live', 3, 'succeeded', '{"prompt":"session"}', NULL, '{"output":{},"artifacts":[],"failure":null,"usage":{"run_s":2.0,"steps":0,"units":0.0,"share":1.0}}', 3, NULL, '2026-11-27 18:03:13.319264+00', '2026-11-27 18:03:13.356635+00', '2026-11-27 18:03:13.496924+00', NULL, NULL, 1, 425440152161044, 0, 0, false, false, false, 'r1', NULL, NULL, NULL, NULL, NULL, true, '2026-11-27 17:43:13.319264+00', 1, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-00000000000f', 17, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'running', '{"prompt":"running"}', NULL, NULL, 2, NULL, '2026-11-27 18:03:14.449361+00', '2026-11-27 18:03:14.514064+00', NULL, NULL, NULL, 1, 5166907141193775, 0, 0, true, false, false, 'r1', 'actor-r1', '2026-11-27 18:13:14.578847+00', NULL, 's/019b0000-0000-7000-8000-00000000000f/1/0.bin', 10, true, '2026-11-27 18:03:14.449361+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, NULL, NULL, 'https://running.example.com/hook', 'https://darkroom.example.com', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-00000000001a', 28, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'queued', '{"prompt":"queued leader"}', NULL, NULL, 1, NULL, '2026-11-27 18:03:15.652921+00', NULL, NULL, NULL, NULL, 0, 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-27 18:03:15.652921+00', 1, 1.4999999999999998, NULL, NULL, '\x717565756564206c65616465722e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e', NULL, '019b0000-0000-7000-8000-00000000001a', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-000000000011', 18, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'running', '{"prompt":"cancel requested"}', NULL, NULL, 3, NULL, '2026-11-27 18:03:14.689177+00', '2026-11-27 18:03:14.736131+00', NULL, NULL, NULL, 1, 2070644966147528, 0, 0, true, false, true, 'r2', 'actor-r2', '2026-11-27 18:13:14.761334+00', NULL, NULL, NULL, true, '2026-11-27 18:03:14.689177+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-000000000012', 19, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'running', '{"prompt":"running leader"}', NULL, NULL, 2, NULL, '2026-11-27 18:03:14.801595+00', '2026-11-27 18:03:14.831612+00', NULL, NULL, NULL, 1, 1745086746472494, 0, 0, true, false, false, 'r3', 'actor-r3', '2026-11-27 18:13:14.842184+00', NULL, NULL, NULL, true, '2026-11-27 18:03:14.801595+00', 1, 1.4999999999999998, NULL, NULL, '\x72756e6e696e67206c65616465722e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e', NULL, '019b0000-0000-7000-8000-000000000012', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-000000000016', 27, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 0, 'queued', '{"prompt":"to be forgotten"}', NULL, NULL, 1, NULL, '2026-11-27 18:03:15.597605+00', NULL, NULL, NULL, NULL, 0, 0, 0, 0, false, true, false, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-27 18:13:15.597605+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, 'input'),
	('019b0000-0000-7000-8000-000000000010', 20, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'running', '{"prompt":"unconfirmed"}', NULL, NULL, 2, NULL, '2026-11-27 18:03:14.87426+00', '2026-11-27 18:03:14.961789+00', NULL, NULL, NULL, 1, 7367145306803327, 0, 0, false, false, false, 'r4', 'actor-r4', '2026-11-27 18:13:14.961789+00', NULL, NULL, NULL, true, '2026-11-27 18:03:14.87426+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-00000000001f', 30, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'following', '{"prompt":"following a queued request"}', NULL, NULL, 2, NULL, '2026-11-27 18:03:16.254568+00', NULL, NULL, NULL, NULL, 0, 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-27 18:03:16.254568+00', 1, 1.4999999999999998, NULL, NULL, '\x717565756564206c65616465722e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e', NULL, NULL, '019b0000-0000-7000-8000-00000000001a', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-00000000001b', 31, 'bob', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'queued', '{"prompt":"queued of another tenant"}', NULL, NULL, 1, NULL, '2026-11-27 18:03:16.641394+00', NULL, NULL, NULL, NULL, 0, 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-27 18:03:16.641394+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-000000000017', 21, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'queued', '{"prompt":"suspect"}', NULL, NULL, 3, NULL, '2026-11-27 18:03:15.044853+00', '2026-11-27 18:03:15.061237+00', NULL, NULL, NULL, 1, 5283306345402847, 1, 0, false, true, false, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-27 18:03:15.044853+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL),
	('019b0000-0000-7000-8000-000000000015', 26, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'queued', '{"prompt": "with a large input"}', '{"prompt":"with a large input","image":"data:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\u2026 (65541 characters)"}', NULL, 1, NULL, '2026-11-27 18:03:15.580775+00', NULL, NULL, NULL, NULL, 0, 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-27 18:03:15.580775+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL);

INSERT INTO public.undelivered (request_id, api_key, body_digest, at) VALUES
	('019b0000-0000-7000-8000-000000000013', 'dk_replaying', '\x6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c', '2026-11-27 18:03:15.491422+00');

INSERT INTO public.jobs (kind, key, due_at) VALUES
	('file', '019b0000-0000-7000-8000-000000000001/1/5622057577261619/0.png', '2026-11-27 18:08:08.883602+00'),
	('file', '019b0000-0000-7000-8000-000000000001/2/8719676302053171/0.png', '2026-11-27 18:08:08.883602+00'),
	('file', '019b0000-0000-7000-8000-000000000001/4/1142235170661702/0.png', '2026-11-28 00:03:09.178542+00'),
	('file', '019b0000-0000-7000-8000-000000000001/5/6145669823844175/0.png', '2026-11-28 00:03:09.58991+00'),
	('file', '019b0000-0000-7000-8000-000000000001/6/7536125201022397/0.png', '2026-11-28 00:03:09.909831+00'),
	('file', '019b0000-0000-7000-8000-000000000001/7/8711515368511703/0.png', '2026-11-28 00:03:10.180961+00'),
	('file', '019b0000-0000-7000-8000-000000000005/1/6289949616597139/0.png', '2026-11-27 18:08:10.920197+00'),
	('file', '019b0000-0000-7000-8000-000000000005/2/584618532266208/0.png', '2026-11-27 18:08:10.920197+00'),
	('file', '019b0000-0000-7000-8000-000000000008/1/7561708827315727/0.png', '2026-11-27 18:08:11.77916+00'),
	('file', '019b0000-0000-7000-8000-00000000000a/1/7103687208560751/0.png', '2026-11-27 18:08:11.967842+00'),
	('file', '019b0000-0000-7000-8000-000000000020/1/0.png', '2026-11-27 18:03:12.193283+00'),
	('file', 's/019b0000-0000-7000-8000-00000000000f/1/0.bin', '2026-11-27 19:03:14.653745+00'),
	('file', '019b0000-0000-7000-8000-000000000018/1/7289384834657953/0.png', '2026-11-27 18:08:15.338373+00'),
	('file', '019b0000-0000-7000-8000-000000000017/1/5283306345402847/0.png', '2026-11-28 00:03:15.398337+00'),
	('file', '019b0000-0000-7000-8000-000000000019/1/8336166814576351/0.png', '2026-11-28 00:03:15.398337+00');

INSERT INTO public.uploads (key, id, tenant, media_type, keep_s, parts_id, state, size, created_at, due_at) VALUES
	('u/open.png', 'openopenopenopen', 'ann', 'image/png', NULL, NULL, 'open', NULL, '2026-11-27 18:03:14.050429+00', '2026-11-28 00:03:14.050429+00'),
	('u/parts.png', 'partspartspartsparts', 'ann', 'image/png', NULL, 'storage-7', 'open', NULL, '2026-11-27 18:03:14.107256+00', '2026-11-28 00:03:14.107256+00'),
	('u/whole.png', 'wholewholewholewhole', 'ann', 'image/png', NULL, NULL, 'whole', 3221225472, '2026-11-27 18:03:14.116327+00', NULL),
	('u/whole for an hour.png', 'whole for an hourwhole for an hourwhole for an hourwhole for an hour', 'ann', 'image/png', 3600, NULL, 'whole', 1000, '2026-11-27 18:03:14.170779+00', '2026-11-27 19:03:14.347381+00'),
	('u/given up.png', 'given upgiven upgiven upgiven up', 'ann', 'image/png', NULL, NULL, 'unwanted', NULL, '2026-11-27 18:03:14.215383+00', '2026-11-27 18:03:14.387576+00');

INSERT INTO public.upload_parts (key, number, etag, size) VALUES
	('u/parts.png', 1, 'abababababababababababababababab', 5242880),
	('u/parts.png', 2, 'abababababababababababababababab', 5242880);

INSERT INTO public.upload_totals (tenant, bytes) VALUES
	('ann', 3221226472);

INSERT INTO public.usage (request_id, tenant, key_id, endpoint, state, attempt, run_s, steps, units, images, megapixels, at, submitted_at, price, billed, amount, reserved) VALUES
	('019b0000-0000-7000-8000-000000000000', 'ann', NULL, 'fal-ai/flux/schnell', 'succeeded', 1, 1.5, 4, 1, 1, 1, '2026-11-27 18:03:08.190666+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000001', 'ann', NULL, 'fal-ai/flux/schnell', 'succeeded', 8, 1.5, 4, 1, 1, 1, '2026-11-27 18:03:10.24982+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000002', 'ann', NULL, 'fal-ai/flux/schnell', 'succeeded', 0, 0, 0, 0, 0, 0, '2026-11-27 18:03:10.297699+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000003', 'ann', NULL, 'fal-ai/flux/schnell', 'succeeded', 1, 1.5, 4, 1, 1, 1, '2026-11-27 18:03:10.684088+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000004', 'ann', NULL, 'fal-ai/flux/schnell', 'succeeded', 0, 0, 0, 0, 0, 0, '2026-11-27 18:03:10.691864+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000005', 'ann', NULL, 'fal-ai/flux/schnell', 'failed', 2, 0, 0, 0, 0, 0, '2026-11-27 18:03:10.853084+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000006', 'ann', NULL, 'fal-ai/flux/schnell', 'failed', 0, 0, 0, 0, 0, 0, '2026-11-27 18:03:10.997707+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-00000000000e', 'bob', NULL, 'fal-ai/flux/schnell', 'succeeded', 1, 1.5, 4, 1, 1, 1, '2026-11-27 18:03:11.110696+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000007', 'ann', NULL, 'fal-ai/flux/schnell', 'cancelled', 0, 0, 0, 0, 0, 0, '2026-11-27 18:03:11.259803+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000008', 'ann', NULL, 'fal-ai/flux/schnell', 'cancelled', 1, 0, 0, 0, 0, 0, '2026-11-27 18:03:11.662324+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000009', 'ann', NULL, 'fal-ai/flux/schnell', 'expired', 0, 0, 0, 0, 0, 0, '2026-11-27 18:03:11.77815+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-00000000000a', 'ann', NULL, 'fal-ai/flux/schnell', 'expired', 1, 0, 0, 0, 0, 0, '2026-11-27 18:03:11.962435+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000020', 'ann', NULL, 'fal-ai/flux/schnell', 'succeeded', 1, 1.5, 4, 1, 1, 1, '2026-11-27 18:03:12.136188+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-00000000000c', 'ann', NULL, 'fal-ai/flux/schnell', 'succeeded', 1, 1.5, 4, 1, 1, 1, '2026-11-27 18:03:12.409026+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-00000000000b', 'ann', NULL, 'fal-ai/flux/schnell', 'succeeded', 1, 1.5, 4, 1, 1, 1, '2026-11-27 18:03:13.064277+00', NULL, NULL, NULL, NULL, NULL),
	('0000a353-c991-0dbf-3b2e-153fc5ffbb48', 'ann', NULL, 'fal-ai/flux/schnell', 'succeeded', 1, 0.2, 1, 0.25, 1, 1, '2026-11-27 18:03:13.414787+00', NULL, NULL, NULL, NULL, NULL),
	('0000a353-c991-1e14-5bb2-ed1a49eb6808', 'ann', NULL, 'fal-ai/flux/schnell', 'succeeded', 1, 0.2, 1, 0.25, 1, 1, '2026-11-27 18:03:13.447196+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-00000000000d', 'ann', NULL, 'fal-ai/flux/schnell', 'succeeded', 1, 2, 0, 0, 0, 0, '2026-11-27 18:03:13.496924+00', NULL, NULL, NULL, NULL, NULL);

INSERT INTO public.webhook_deliveries (id, request_id, tenant, url, state, tries, due_at, created_at, claims, since, ended_at, body, status, error) VALUES
	('18ab503a-567e-4985-9495-7db788bfbe1b', '019b0000-0000-7000-8000-000000000002', 'ann', 'https://reused.example.com/hook', 'pending', 0, '2026-11-27 18:03:10.297699+00', '2026-11-27 18:03:10.297699+00', 0, '2026-11-27 18:03:10.297699+00', NULL, NULL, NULL, ''),
	('0fc5c41a-8676-49b7-81cc-2ec0aad57b84', '019b0000-0000-7000-8000-000000000000', 'ann', 'https://succeeded.example.com/hook', 'delivered', 1, '2026-11-27 18:03:13.674421+00', '2026-11-27 18:03:08.190666+00', 2, '2026-11-27 18:03:08.190666+00', '2026-11-27 18:03:13.674421+00', '\x7b22737461747573223a20224f4b227d', 200, ''),
	('b968ccd3-1154-4b30-9680-a51d67acfda1', '019b0000-0000-7000-8000-000000000004', 'ann', 'https://follower.example.com/hook', 'pending', 0, '2026-11-27 18:03:13.82269+00', '2026-11-27 18:03:10.691864+00', 3, '2026-11-27 18:03:13.82269+00', NULL, '\x7b22737461747573223a20224f4b227d', 200, ''),
	('953e365e-f832-41a1-81bf-b048fb0c7c58', '019b0000-0000-7000-8000-000000000001', 'ann', 'https://many-attempts.example.com/hook', 'pending', 1, '2026-11-27 18:03:13.920522+00', '2026-11-27 18:03:10.24982+00', 2, '2026-11-27 18:03:10.24982+00', NULL, '\x7b22737461747573223a20224f4b227d', 503, 'It answered 503.'),
	('7711b8e1-e8ee-40ea-99e4-921677e99ac6', '019b0000-0000-7000-8000-000000000005', 'ann', 'https://failed.example.com/hook', 'dead', 1, '2026-11-27 18:03:14.019481+00', '2026-11-27 18:03:10.853084+00', 2, '2026-11-27 18:03:10.853084+00', '2026-11-27 18:03:14.019481+00', NULL, NULL, 'It did not answer.'),
	('8cacf06c-9086-4ad1-9a40-58398117f739', '019b0000-0000-7000-8000-000000000007', 'ann', 'https://cancelled.example.com/hook', 'pending', 0, '2026-11-27 18:03:54.039223+00', '2026-11-27 18:03:11.259803+00', 1, '2026-11-27 18:03:11.259803+00', NULL, NULL, NULL, '');

INSERT INTO public.webhook_keys (kid, seed, created_at, signs_from) VALUES
	('whk_414f5f38f83f87d2', 'a76b75f4fead5f5e53e93591f7cf516512399a2b1f219dd568688161ad501e0c', '2026-11-27 18:03:07.846628+00', '2026-11-27 18:03:07.846628+00'),
	('whk_5391e5ccf0380aec', '083ad2fb187a7a784eb44ee69fe4ce0edf8aab2229a58d65604582bbcb7a5818', '2026-11-27 18:03:07.903527+00', '2026-11-28 19:03:07.903527+00');

INSERT INTO public.webhook_tries (delivery, claim, at, took_s, status, error) VALUES
	('0fc5c41a-8676-49b7-81cc-2ec0aad57b84', 1, '2026-11-27 18:03:13.554421+00', 0.12, 200, ''),
	('b968ccd3-1154-4b30-9680-a51d67acfda1', 1, '2026-11-27 18:03:13.647761+00', 0.12, 200, ''),
	('953e365e-f832-41a1-81bf-b048fb0c7c58', 1, '2026-11-27 18:03:12.920522+00', 1, 503, 'It answered 503.'),
	('7711b8e1-e8ee-40ea-99e4-921677e99ac6', 1, '2026-11-27 18:02:44.019481+00', 30, NULL, 'It did not answer.');

SELECT pg_catalog.setval('public.audit_id_seq', 9, true);

SELECT pg_catalog.setval('public.file_url_revocation_numbers', 1, false);

SELECT pg_catalog.setval('public.requests_place_seq', 33, true);
