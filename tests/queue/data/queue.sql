-- Rows of the queue in every state, for the tables of 0001_baseline.sql.
-- Made by `python -m tests.queue.data.make_installation`: do not edit.

INSERT INTO public.tenants (id, name, created_at, changed_at, disabled_at, limits) VALUES
	('ann', 'ann', '2026-11-28 01:39:47.413834+00', '2026-11-28 01:39:47.413834+00', NULL, '{}'),
	('bob', 'bob', '2026-11-28 01:39:47.563461+00', '2026-11-28 01:39:47.563461+00', NULL, '{}'),
	('carl', 'carl', '2026-11-28 01:39:47.769361+00', '2026-11-28 01:39:47.769361+00', '2026-11-28 01:39:47.867406+00', '{}');

INSERT INTO public.api_keys (id, tenant, digest, scopes, endpoints, name, person, created_at, expires_at, revoked_at, last_used_at, successor, replay_undelivered) VALUES
	('dk_valid', 'ann', '\x8fd6a6a78f5857d7ba1cfe9033bffeec86da2ba6a4bd60a6f833209d9d3e390d', '{admin,api}', '{}', 'valid', '', '2026-11-28 01:39:47.425111+00', NULL, NULL, NULL, NULL, false),
	('dk_replaying', 'ann', '\x8fd6a6a78f5857d7ba1cfe9033bffeec86da2ba6a4bd60a6f833209d9d3e390d', '{api}', '{}', '', '', '2026-11-28 01:39:47.518858+00', NULL, NULL, NULL, NULL, true),
	('dk_expired', 'bob', '\x8fd6a6a78f5857d7ba1cfe9033bffeec86da2ba6a4bd60a6f833209d9d3e390d', '{api}', '{}', '', '', '2026-11-28 01:39:47.575996+00', '2026-11-28 01:39:47.391186+00', NULL, NULL, NULL, false),
	('dk_revoked', 'bob', '\x8fd6a6a78f5857d7ba1cfe9033bffeec86da2ba6a4bd60a6f833209d9d3e390d', '{api}', '{}', '', '', '2026-11-28 01:39:47.619765+00', NULL, '2026-11-28 01:39:47.705126+00', NULL, NULL, false),
	('dk_of_a_disabled_tenant', 'carl', '\x8fd6a6a78f5857d7ba1cfe9033bffeec86da2ba6a4bd60a6f833209d9d3e390d', '{api}', '{}', '', '', '2026-11-28 01:39:47.794104+00', NULL, NULL, NULL, NULL, false);

INSERT INTO public.artifacts (key, request_id, attempt, tenant, media_type, size, sha256, width, height, created_at, expires_at, thumbnail_of) VALUES
	('019b0000-0000-7000-8000-000000000000/1/0.png', '019b0000-0000-7000-8000-000000000000', 1, 'ann', 'image/png', 3, 'abababababababababababababababababababababababababababababababab', 8, 8, '2026-11-28 01:39:48.285451+00', NULL, NULL),
	('019b0000-0000-7000-8000-000000000001/1/0.png', '019b0000-0000-7000-8000-000000000001', 8, 'ann', 'image/png', 3, 'abababababababababababababababababababababababababababababababab', 8, 8, '2026-11-28 01:39:50.482902+00', NULL, NULL),
	('019b0000-0000-7000-8000-000000000003/1/0.png', '019b0000-0000-7000-8000-000000000003', 1, 'ann', 'image/png', 3, 'abababababababababababababababababababababababababababababababab', 8, 8, '2026-11-28 01:39:50.657184+00', NULL, NULL),
	('019b0000-0000-7000-8000-00000000000e/1/0.png', '019b0000-0000-7000-8000-00000000000e', 1, 'bob', 'image/png', 3, 'abababababababababababababababababababababababababababababababab', 8, 8, '2026-11-28 01:39:51.220969+00', NULL, NULL),
	('019b0000-0000-7000-8000-00000000000c/1/0.png', '019b0000-0000-7000-8000-00000000000c', 1, 'ann', 'image/png', 3, 'abababababababababababababababababababababababababababababababab', 8, 8, '2026-11-28 01:39:52.070941+00', NULL, NULL),
	('019b0000-0000-7000-8000-00000000000b/1/0.png', '019b0000-0000-7000-8000-00000000000b', 1, 'ann', 'image/png', 3, 'abababababababababababababababababababababababababababababababab', 8, 8, '2026-11-28 01:39:52.277893+00', NULL, NULL);

INSERT INTO public.attempts (request_id, attempt, nonce, replica_id, actor_id, endpoint, node, started_at, ended_at, ended, message, start_line, run_s, steps, units, collected) VALUES
	('019b0000-0000-7000-8000-000000000001', 1, 3179928547450542, 'r1', 'actor-r1', NULL, NULL, '2026-11-28 01:39:48.584469+00', '2026-11-28 01:39:48.637558+00', 'retry', 'It went wrong: pipeline_failed.', 2, 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000001', 2, 3729744977909856, 'r1', 'actor-r1', NULL, NULL, '2026-11-28 01:39:48.748811+00', '2026-11-28 01:39:48.988644+00', 'hand_back', 'Replica r1 handed the request back: It drains.', 4, 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000001', 3, 5484757318195147, 'r1', 'actor-r1', NULL, NULL, '2026-11-28 01:39:49.110544+00', '2026-11-28 01:39:49.305429+00', 'undo', 'The replica disconnected', 6, 0, 0, 0, false),
	('019b0000-0000-7000-8000-000000000001', 4, 6787490650129105, 'r1', 'actor-r1', NULL, NULL, '2026-11-28 01:39:49.406736+00', '2026-11-28 01:39:49.526545+00', 'by_hand', 'Taken from its replica by an operator', 8, 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000001', 5, 4607718896137629, 'stopped', 'actor-stopped', NULL, NULL, '2026-11-28 01:39:49.642881+00', '2026-11-28 01:39:49.871123+00', 'stopped', 'Darkroom was stopped, and with it replica stopped', 10, 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000001', 6, 3312510506730006, 'dead', 'actor-dead', NULL, NULL, '2026-11-28 01:39:50.022887+00', '2026-11-28 01:39:50.213188+00', 'lost', 'The process ended on replica dead', 12, 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000001', 7, 4653104644475231, 'cut off', 'actor-cut off', NULL, NULL, '2026-11-28 01:39:50.285613+00', '2026-11-28 01:39:50.413496+00', 'interrupted', 'The cluster or the node failed under replica cut off', 14, 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000005', 1, 8355809740570061, 'r1', 'actor-r1', NULL, NULL, '2026-11-28 01:39:50.806199+00', '2026-11-28 01:39:50.843861+00', 'died', 'It went wrong: replica_died.', 2, 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000005', 2, 7370841617205119, 'r1', 'actor-r1', NULL, NULL, '2026-11-28 01:39:50.924368+00', '2026-11-28 01:39:50.994171+00', 'failed', 'It went wrong: pipeline_failed.', 4, 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000008', 1, 7501471951470705, 'r1', 'actor-r1', NULL, NULL, '2026-11-28 01:39:51.404479+00', '2026-11-28 01:39:51.518276+00', 'cancelled', 'The request was cancelled.', 2, 0, 0, 0, true),
	('019b0000-0000-7000-8000-00000000000a', 1, 8791278524611341, 'r1', 'actor-r1', NULL, NULL, '2026-11-28 01:39:51.773933+00', '2026-11-28 01:39:51.817323+00', 'expired', 'The request did not end within the time that its X-Darkroom-Deadline allowed.', 2, 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000017', 1, 6531642683543777, 'dead too', 'actor-dead too', NULL, NULL, '2026-11-28 01:39:54.007901+00', '2026-11-28 01:39:54.512668+00', 'lost', 'The process ended on replica dead too', 2, 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000018', 1, 4209732384408586, 'r1', 'actor-r1', NULL, NULL, '2026-11-28 01:39:54.268964+00', '2026-11-28 01:39:54.445599+00', 'hand_back', 'Replica r1 handed the request back: It drains.', 2, 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000019', 1, 5394837256601069, 'r1', 'actor-r1', NULL, NULL, '2026-11-28 01:39:54.366852+00', '2026-11-28 01:39:54.570981+00', 'by_hand', 'Taken from its replica by an operator', 2, 0, 0, 0, true);

INSERT INTO public.audit (id, at, actor, address, action, subject, detail, sequence, tenant, previous, hash) OVERRIDING SYSTEM VALUE VALUES
	(1, '2026-11-28 01:39:47.43298+00', 'operator', '', 'key.create', 'dk_valid', '{"tenant": "ann", "alias": "valid", "scopes": ["admin", "api"]}', 1, 'ann', '0000000000000000000000000000000000000000000000000000000000000000', '406307dae218832bbfe4c352038a78cfc3107bc04de0f4f16cc59d18197e6dfe'),
	(2, '2026-11-28 01:39:47.705126+00', 'dk_valid', '', 'key.revoke', 'dk_revoked', '{"tenant" : "bob"}', 2, 'bob', '406307dae218832bbfe4c352038a78cfc3107bc04de0f4f16cc59d18197e6dfe', '9e844a00c42330f19c4196d36a6e82aa555b733bbf31d635a02ffdd62492c897'),
	(3, '2026-11-28 01:39:47.938966+00', 'dk_valid', '', 'webhook.rotate', 'whk_d424651f2a672f49', '{"at_once":false}', 3, '', '9e844a00c42330f19c4196d36a6e82aa555b733bbf31d635a02ffdd62492c897', '3577feb053dc8ef751dc274160a875cc1190c91eff1a82cc9eee214634ca36f7'),
	(4, '2026-11-28 01:39:49.526545+00', 'dk_valid', '', 'request.requeue', '019b0000-0000-7000-8000-000000000001', '{}', 4, 'ann', '3577feb053dc8ef751dc274160a875cc1190c91eff1a82cc9eee214634ca36f7', 'b029683f4e5ab4c821313824161daeba6dfd2e386fcb29951244653c2e4ed8bf'),
	(5, '2026-11-28 01:39:51.117235+00', 'dk_valid', '', 'request.fail', '019b0000-0000-7000-8000-000000000006', '{"reason":"It blocks the others."}', 5, 'ann', 'b029683f4e5ab4c821313824161daeba6dfd2e386fcb29951244653c2e4ed8bf', 'ab2ba186e8e6ef6c5686c4a6ee646755f049203f73bc63968b28854a89f4c3c9'),
	(6, '2026-11-28 01:39:52.733457+00', 'dk_valid', '', 'webhook.redeliver', '019b0000-0000-7000-8000-000000000004', NULL, 6, 'ann', 'ab2ba186e8e6ef6c5686c4a6ee646755f049203f73bc63968b28854a89f4c3c9', '4015d0670e44c3a30bb0aac1a26ed35f096f3b9209068a6c39f854a6fca020a3'),
	(7, '2026-11-28 01:39:54.570981+00', 'dk_valid', '', 'request.requeue', '019b0000-0000-7000-8000-000000000019', '{}', 7, 'ann', '4015d0670e44c3a30bb0aac1a26ed35f096f3b9209068a6c39f854a6fca020a3', 'd0c2ec49ea18e6d8c33255cde9ec496979be7712e6faaae5262aafeeead487b1'),
	(8, '2026-11-28 01:39:55.154249+00', 'dk_valid', '', 'endpoint.pause', 'fal-ai/paused', NULL, 8, '', 'd0c2ec49ea18e6d8c33255cde9ec496979be7712e6faaae5262aafeeead487b1', 'ec19fefb58d54115dbb2937ecc1c149c1d030c3c5115068da28203836eb09f22'),
	(9, '2026-11-28 01:39:55.222012+00', 'dk_valid', '', 'endpoint.drain', 'fal-ai/draining', NULL, 9, '', 'ec19fefb58d54115dbb2937ecc1c149c1d030c3c5115068da28203836eb09f22', '0fd15ddac39f29809dfdce2022b42b8853e247b7c79636ef28a2fa46bacbd84c');

INSERT INTO public.costs (endpoint, pool, n, work, seconds, work_work, work_seconds) VALUES
	('fal-ai/flux/schnell', 'studio', 6.593723337664, 6.593723337664, 9.890585006495998, 6.593723337664, 9.890585006495998),
	('fal-ai/flux/schnell', 'live', 1, 1, 2, 1, 2);

INSERT INTO public.events (request_id, sequence, at, level, state, message) VALUES
	('019b0000-0000-7000-8000-000000000001', 3, '2026-11-28 01:39:48.637558+00', 'WARNING', 'queued', 'It went wrong: pipeline_failed.; queued again.'),
	('019b0000-0000-7000-8000-000000000001', 5, '2026-11-28 01:39:48.988644+00', 'INFO', 'queued', 'Replica r1 handed the request back: It drains.; queued again.'),
	('019b0000-0000-7000-8000-000000000001', 7, '2026-11-28 01:39:49.305429+00', 'INFO', 'queued', 'The replica disconnected; queued again.'),
	('019b0000-0000-7000-8000-000000000001', 9, '2026-11-28 01:39:49.526545+00', 'INFO', 'queued', 'Taken from its replica by an operator; queued again.'),
	('019b0000-0000-7000-8000-000000000001', 11, '2026-11-28 01:39:49.871123+00', 'WARNING', 'queued', 'Darkroom was stopped, and with it replica stopped; queued again.'),
	('019b0000-0000-7000-8000-000000000001', 13, '2026-11-28 01:39:50.213188+00', 'WARNING', 'queued', 'The process ended on replica dead; queued again.'),
	('019b0000-0000-7000-8000-000000000001', 15, '2026-11-28 01:39:50.413496+00', 'WARNING', 'queued', 'The cluster or the node failed under replica cut off; queued again.'),
	('019b0000-0000-7000-8000-000000000002', 1, '2026-11-28 01:39:50.506889+00', 'INFO', 'succeeded', 'Succeeded. The outcome was reused from request 019b0000-0000-7000-8000-000000000000, which had the same input.'),
	('019b0000-0000-7000-8000-000000000004', 2, '2026-11-28 01:39:50.627612+00', 'INFO', NULL, 'Request 019b0000-0000-7000-8000-000000000003 has the same input; its outcome will be reused.'),
	('019b0000-0000-7000-8000-000000000004', 3, '2026-11-28 01:39:50.680539+00', 'INFO', 'succeeded', 'Succeeded. The outcome was reused from request 019b0000-0000-7000-8000-000000000003, which had the same input.'),
	('019b0000-0000-7000-8000-000000000005', 3, '2026-11-28 01:39:50.843861+00', 'WARNING', 'queued', 'It went wrong: replica_died.; queued again.'),
	('019b0000-0000-7000-8000-000000000005', 5, '2026-11-28 01:39:50.994171+00', 'ERROR', 'failed', 'It went wrong: pipeline_failed.'),
	('019b0000-0000-7000-8000-000000000006', 2, '2026-11-28 01:39:51.117235+00', 'INFO', 'failed', 'An operator of this installation ended the request: It blocks the others.'),
	('019b0000-0000-7000-8000-000000000007', 2, '2026-11-28 01:39:51.28326+00', 'INFO', 'cancelled', 'Cancelled while it was queued.'),
	('019b0000-0000-7000-8000-000000000008', 3, '2026-11-28 01:39:51.456557+00', 'INFO', NULL, 'Cancel requested; the request stops at its next step.'),
	('019b0000-0000-7000-8000-000000000008', 4, '2026-11-28 01:39:51.518276+00', 'INFO', 'cancelled', 'The request was cancelled.'),
	('019b0000-0000-7000-8000-000000000009', 2, '2026-11-28 01:39:51.618297+00', 'INFO', 'expired', 'The request did not start within the time that it allowed.'),
	('019b0000-0000-7000-8000-00000000000a', 3, '2026-11-28 01:39:51.817323+00', 'INFO', 'expired', 'The request did not end within the time that its X-Darkroom-Deadline allowed.'),
	('019b0000-0000-7000-8000-000000000011', 3, '2026-11-28 01:39:53.422988+00', 'INFO', NULL, 'Cancel requested; the request stops at its next step.'),
	('019b0000-0000-7000-8000-000000000018', 3, '2026-11-28 01:39:54.445599+00', 'INFO', 'queued', 'Replica r1 handed the request back: It drains.; queued again.'),
	('019b0000-0000-7000-8000-000000000017', 3, '2026-11-28 01:39:54.512668+00', 'WARNING', 'queued', 'The process ended on replica dead too; queued again.'),
	('019b0000-0000-7000-8000-000000000019', 3, '2026-11-28 01:39:54.570981+00', 'INFO', 'queued', 'Taken from its replica by an operator; queued again.'),
	('019b0000-0000-7000-8000-000000000013', 1, '2026-11-28 01:39:54.712475+00', 'INFO', 'queued', 'Queued. Retries left: timeout 1, server error 2, connection error 0.'),
	('019b0000-0000-7000-8000-000000000013', 2, '2026-11-28 01:39:54.712475+00', 'WARNING', NULL, 'The seed was rounded.'),
	('019b0000-0000-7000-8000-00000000001e', 2, '2026-11-28 01:39:54.908933+00', 'INFO', NULL, 'Request 019b0000-0000-7000-8000-000000000012 has the same input; its outcome will be reused.'),
	('019b0000-0000-7000-8000-00000000001f', 2, '2026-11-28 01:39:54.924945+00', 'INFO', NULL, 'Request 019b0000-0000-7000-8000-00000000001a has the same input; its outcome will be reused.');

INSERT INTO public.fair_lanes (pool, tenant, active, weight, vtime, rested, served, woken_at) VALUES
	('live', 'ann', false, 1, 2.4, true, 0, '2026-11-28 01:39:52.392827+00'),
	('studio', 'ann', true, 1, 18.60934, true, 20.723809, '2026-11-28 01:39:54.446663+00'),
	('studio', 'bob', true, 1, 20.723809, true, 6.9968189999999995, '2026-11-28 01:39:54.986294+00'),
	('other', 'ann', true, 1, 0, true, 0, '2026-11-28 01:39:55.082074+00');

INSERT INTO public.halts (endpoint, kind, at, actor) VALUES
	('fal-ai/paused', 'paused', '2026-11-28 01:39:55.154249+00', 'dk_valid'),
	('fal-ai/draining', 'draining', '2026-11-28 01:39:55.222012+00', 'dk_valid');

INSERT INTO public.idempotency_keys (tenant, endpoint, key, request_id, body_digest, created_at, expires_at) VALUES
	('ann', 'fal-ai/flux/schnell', 'deleted', '019b0000-0000-7000-8000-000000000020', '\x6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c', '2026-11-28 01:39:51.824717+00', '2026-11-29 01:39:51.824717+00'),
	('ann', 'fal-ai/flux/schnell', 'queued', '019b0000-0000-7000-8000-000000000013', '\x6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c', '2026-11-28 01:39:54.712475+00', NULL);

INSERT INTO public.installation (key, value) VALUES
	('tickets', 'fd84a0c3a8bc238314d833353bd5ef4889a1aa76d457d3160bd7a5d0fb3e551c');

INSERT INTO public.jobs (kind, key, tenant, payload, due_at, attempts, lease, error, given_up_at, created_at) VALUES
	('file', '019b0000-0000-7000-8000-000000000001/1/3179928547450542/0.png', '', '{}', '2026-11-28 01:44:48.777985+00', 0, NULL, '', NULL, '2026-11-28 01:39:48.777985+00'),
	('file', '019b0000-0000-7000-8000-000000000001/2/3729744977909856/0.png', '', '{}', '2026-11-28 01:44:49.173956+00', 0, NULL, '', NULL, '2026-11-28 01:39:49.173956+00'),
	('file', '019b0000-0000-7000-8000-000000000001/4/6787490650129105/0.png', '', '{}', '2026-11-28 07:39:49.718675+00', 0, NULL, '', NULL, '2026-11-28 01:39:49.718675+00'),
	('file', '019b0000-0000-7000-8000-000000000001/5/4607718896137629/0.png', '', '{}', '2026-11-28 07:39:50.036572+00', 0, NULL, '', NULL, '2026-11-28 01:39:50.036572+00'),
	('file', '019b0000-0000-7000-8000-000000000001/6/3312510506730006/0.png', '', '{}', '2026-11-28 07:39:50.336795+00', 0, NULL, '', NULL, '2026-11-28 01:39:50.336795+00'),
	('file', '019b0000-0000-7000-8000-000000000001/7/4653104644475231/0.png', '', '{}', '2026-11-28 07:39:50.460871+00', 0, NULL, '', NULL, '2026-11-28 01:39:50.460871+00'),
	('file', '019b0000-0000-7000-8000-000000000005/1/8355809740570061/0.png', '', '{}', '2026-11-28 01:44:51.026967+00', 0, NULL, '', NULL, '2026-11-28 01:39:51.026967+00'),
	('file', '019b0000-0000-7000-8000-000000000005/2/7370841617205119/0.png', '', '{}', '2026-11-28 01:44:51.026967+00', 0, NULL, '', NULL, '2026-11-28 01:39:51.026967+00'),
	('file', '019b0000-0000-7000-8000-000000000008/1/7501471951470705/0.png', '', '{}', '2026-11-28 01:44:51.751514+00', 0, NULL, '', NULL, '2026-11-28 01:39:51.751514+00'),
	('file', '019b0000-0000-7000-8000-00000000000a/1/8791278524611341/0.png', '', '{}', '2026-11-28 01:44:51.914864+00', 0, NULL, '', NULL, '2026-11-28 01:39:51.914864+00'),
	('file', '019b0000-0000-7000-8000-000000000020/1/0.png', '', '{}', '2026-11-28 01:39:51.939683+00', 0, NULL, '', NULL, '2026-11-28 01:39:51.939683+00'),
	('file', 's/019b0000-0000-7000-8000-00000000000f/1/0.bin', '', '{}', '2026-11-28 02:39:53.202601+00', 0, NULL, '', NULL, '2026-11-28 01:39:53.202601+00'),
	('file', '019b0000-0000-7000-8000-000000000017/1/6531642683543777/0.png', '', '{}', '2026-11-28 07:39:54.598234+00', 0, NULL, '', NULL, '2026-11-28 01:39:54.598234+00'),
	('file', '019b0000-0000-7000-8000-000000000018/1/4209732384408586/0.png', '', '{}', '2026-11-28 01:44:54.598234+00', 0, NULL, '', NULL, '2026-11-28 01:39:54.598234+00'),
	('file', '019b0000-0000-7000-8000-000000000019/1/5394837256601069/0.png', '', '{}', '2026-11-28 07:39:54.638883+00', 0, NULL, '', NULL, '2026-11-28 01:39:54.638883+00');

INSERT INTO public.leaders (name, holder, until) VALUES
	('budgets', 'ingress-1', '2026-11-28 01:40:17.468981+00'),
	('table sizes', 'ingress-1', '2026-11-28 01:42:47.475337+00'),
	('replica_hours', 'ingress-1', '2026-11-28 01:40:17.48171+00'),
	('retention', 'ingress-1', '2026-11-28 01:42:47.533462+00'),
	('canaries', 'ingress-1', '2026-11-28 01:40:07.646219+00'),
	('fallbacks', 'ingress-1', '2026-11-28 01:40:08.836271+00'),
	('quarantines', 'ingress-1', '2026-11-28 01:39:56.903436+00'),
	('audit', 'ingress-1', '2026-11-28 01:39:58.153517+00');

INSERT INTO public.lifecycles (request_id, keep_s, created_at, due_at) VALUES
	('019b0000-0000-7000-8000-000000000000', 3600, '2026-11-28 01:39:47.964287+00', '2026-11-28 02:39:48.285451+00'),
	('019b0000-0000-7000-8000-000000000013', 60, '2026-11-28 01:39:54.656122+00', NULL);

INSERT INTO public.processes (actor_id, kind, name, pool, node, version, cluster, started_at, why_started, drains, seen_at, ended_at, why_ended, by_itself) VALUES
	('actor-stopped', 'replica', 'stopped', 'studio', '', '', '', NULL, '', false, '2026-11-28 01:39:49.828397+00', '2026-11-28 01:39:49.828397+00', 'Darkroom was stopped', false),
	('actor-dead', 'replica', 'dead', 'studio', '', '', '', NULL, '', false, '2026-11-28 01:39:50.196774+00', '2026-11-28 01:39:50.196774+00', 'its process ended', true),
	('actor-cut off', 'replica', 'cut off', 'studio', '', '', '', NULL, '', false, '2026-11-28 01:39:50.402738+00', '2026-11-28 01:39:50.402738+00', 'its node failed', false),
	('actor-dead too', 'replica', 'dead too', 'studio', '', '', '', NULL, '', false, '2026-11-28 01:39:54.459472+00', '2026-11-28 01:39:54.459472+00', 'its process ended', true);

INSERT INTO public.progress (request_id, attempt, stage, step, steps, at, rate, preview, preview_step, watched_until, followed_until) VALUES
	('019b0000-0000-7000-8000-00000000000f', 1, 'denoising', 12, 30, '2026-11-28 01:39:53.142394+00', 2.5, '\xffd8ffe000104a46494600010100000100010000ffd9', 12, '2026-11-28 01:39:58.215202+00', '2026-11-28 01:39:58.226071+00'),
	('019b0000-0000-7000-8000-000000000011', 1, 'downloading', 3000000000, 23000000000, '2026-11-28 01:39:53.379973+00', 100000000, NULL, 0, NULL, NULL);

INSERT INTO public.replicas (replica_id, actor_id, pool, node, device, stage, detail, slots, busy_at, seen_at, loading, hot, warm, on_disk, keep, not_kept, memory_used, memory_total) VALUES
	('r1', 'actor-r1', 'studio', '', '', 'ready', '', 1, '2026-11-28 01:39:54.600377+00', '2026-11-28 01:39:54.600377+00', '[]', '[]', '[]', '[]', NULL, '[]', NULL, NULL),
	('r2', 'actor-r2', 'studio', '', '', 'ready', '', 1, '2026-11-28 01:39:53.52783+00', '2026-11-28 01:39:53.52783+00', '[]', '[]', '[]', '[]', NULL, '[]', NULL, NULL),
	('r5', 'actor-r5', 'studio', '', '', 'starting', 'downloading a', 1, NULL, '2026-11-28 01:39:53.655504+00', '[{"endpoints":["a"],"stage":"downloading","done":1,"total":34359738368}]', '[]', '[]', '[]', NULL, '[]', NULL, NULL),
	('r6', 'actor-r6', 'studio', '', '', 'draining', '', 1, NULL, '2026-11-28 01:39:53.730428+00', '[]', '[]', '[]', '[]', NULL, '[]', NULL, NULL),
	('r4', 'actor-r4', 'studio', '', '', 'ready', '', 1, NULL, '2026-11-28 01:39:53.756471+00', '[]', '[]', '[]', '[]', NULL, '[]', NULL, NULL),
	('r3', 'actor-r3', 'studio', '', '', 'ready', '', 1, '2026-11-28 01:39:53.901648+00', '2026-11-28 01:39:53.901648+00', '[]', '[]', '[]', '[]', NULL, '[]', NULL, NULL);

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

INSERT INTO public.requests (id, place, tenant, key_id, endpoint, endpoint_digest, pool, priority, state, input, shown, outcome, events, trace, created_at, started_at, finished_at, start_by, end_by, attempt, lease_nonce, failures, unconfirmed, confirmed, alone, cancel_requested, replica_id, actor_id, lease_until, start_line, end_line, retries_left, snapshot, snapshot_step, previews, ranked_at, work, expected_s, reuse_digest, reuses, leads, follows, webhook_url, webhook_origin, price, reserved, file_access, upload_policy, draft_key, draft_bytes, fallback, fell_back_to, fell_back_for, steps_stay, forgetting) OVERRIDING SYSTEM VALUE VALUES
	('019b0000-0000-7000-8000-000000000000', 1, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'succeeded', '{"prompt":"succeeded"}', NULL, '{"output":{"images":[{"artifact":"019b0000-0000-7000-8000-000000000000/1/0.png"}],"text":"not for jsonb: \u0000 \ud800"},"artifacts":[{"key":"019b0000-0000-7000-8000-000000000000/1/0.png","media_type":"image/png","size":3,"sha256":"abababababababababababababababababababababababababababababababab","width":8,"height":8,"thumbnail":null}],"failure":null,"usage":{"run_s":1.5,"steps":4,"units":1.0,"share":1.0}}', 3, NULL, '2026-11-28 01:39:48.033247+00', '2026-11-28 01:39:48.144+00', '2026-11-28 01:39:48.285451+00', NULL, NULL, 1, 3207520638750898, 0, 0, false, false, false, 'r1', NULL, NULL, 2, 3, NULL, NULL, NULL, true, '2026-11-28 01:39:48.033247+00', 1, 1, '\x7375636365656465642e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e', NULL, '019b0000-0000-7000-8000-000000000000', NULL, 'https://succeeded.example.com/hook', 'https://darkroom.example.com', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-000000000001', 2, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'succeeded', '{"prompt":"many attempts"}', NULL, '{"output":{"images":[{"artifact":"019b0000-0000-7000-8000-000000000001/1/0.png"}],"text":"not for jsonb: \u0000 \ud800"},"artifacts":[{"key":"019b0000-0000-7000-8000-000000000001/1/0.png","media_type":"image/png","size":3,"sha256":"abababababababababababababababababababababababababababababababab","width":8,"height":8,"thumbnail":null}],"failure":null,"usage":{"run_s":1.5,"steps":4,"units":1.0,"share":1.0}}', 17, NULL, '2026-11-28 01:39:48.527409+00', '2026-11-28 01:39:50.451247+00', '2026-11-28 01:39:50.482902+00', NULL, NULL, 8, 238943186553718, 2, 1, false, true, false, 'r1', NULL, NULL, 16, 17, NULL, NULL, NULL, true, '2026-11-28 01:39:48.527409+00', 1, 1.5, NULL, NULL, NULL, NULL, 'https://many-attempts.example.com/hook', 'https://darkroom.example.com', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-000000000002', 3, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'succeeded', '{"prompt":"reused"}', NULL, '{"output":{"images":[{"artifact":"019b0000-0000-7000-8000-000000000000/1/0.png"}],"text":"not for jsonb: \u0000 \ud800"},"artifacts":[{"key":"019b0000-0000-7000-8000-000000000000/1/0.png","media_type":"image/png","size":3,"sha256":"abababababababababababababababababababababababababababababababab","width":8,"height":8,"thumbnail":null}],"failure":null,"usage":{"run_s":0.0,"steps":0,"units":0.0,"share":1.0}}', 1, NULL, '2026-11-28 01:39:50.506889+00', '2026-11-28 01:39:50.506889+00', '2026-11-28 01:39:50.506889+00', NULL, NULL, 0, 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-28 01:39:50.506889+00', 1, 1, NULL, '019b0000-0000-7000-8000-000000000000', NULL, NULL, 'https://reused.example.com/hook', 'https://darkroom.example.com', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-000000000003', 4, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'succeeded', '{"prompt":"leader"}', NULL, '{"output":{"images":[{"artifact":"019b0000-0000-7000-8000-000000000003/1/0.png"}],"text":"not for jsonb: \u0000 \ud800"},"artifacts":[{"key":"019b0000-0000-7000-8000-000000000003/1/0.png","media_type":"image/png","size":3,"sha256":"abababababababababababababababababababababababababababababababab","width":8,"height":8,"thumbnail":null}],"failure":null,"usage":{"run_s":1.5,"steps":4,"units":1.0,"share":1.0}}', 3, NULL, '2026-11-28 01:39:50.564768+00', '2026-11-28 01:39:50.618644+00', '2026-11-28 01:39:50.657184+00', NULL, NULL, 1, 503154579860866, 0, 0, false, false, false, 'r1', NULL, NULL, 2, 3, NULL, NULL, NULL, true, '2026-11-28 01:39:50.564768+00', 1, 1.4999999999999998, '\x6c65616465722e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e', NULL, '019b0000-0000-7000-8000-000000000003', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-000000000005', 6, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'failed', '{"prompt":"failed"}', NULL, '{"output":null,"artifacts":[],"failure":{"code":"pipeline_failed","message":"It went wrong: pipeline_failed.","retryable":false,"field":null,"type":null,"context":null},"usage":{"run_s":0.0,"steps":0,"units":0.0,"share":1.0}}', 5, NULL, '2026-11-28 01:39:50.790199+00', '2026-11-28 01:39:50.924368+00', '2026-11-28 01:39:50.994171+00', NULL, NULL, 2, 7370841617205119, 1, 0, false, true, false, 'r1', NULL, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-28 01:39:50.790199+00', 1, 1.5, NULL, NULL, NULL, NULL, 'https://failed.example.com/hook', 'https://darkroom.example.com', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-00000000000a', 12, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'expired', '{"prompt":"expired while it ran"}', NULL, '{"output":null,"artifacts":[],"failure":{"code":"expired","message":"The request did not end within the time that its X-Darkroom-Deadline allowed.","retryable":false,"field":null,"type":null,"context":null},"usage":{"run_s":0.0,"steps":0,"units":0.0,"share":1.0}}', 3, NULL, '2026-11-28 01:39:51.730905+00', '2026-11-28 01:39:51.773933+00', '2026-11-28 01:39:51.817323+00', '2026-11-28 01:49:51.730905+00', '2026-11-28 01:49:51.730905+00', 1, 8791278524611341, 0, 0, false, false, false, 'r1', NULL, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-28 01:39:51.730905+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-00000000000d', 16, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'live', 3, 'succeeded', '{"prompt":"session"}', NULL, '{"output":{},"artifacts":[],"failure":null,"usage":{"run_s":2.0,"steps":0,"units":0.0,"share":1.0}}', 3, NULL, '2026-11-28 01:39:52.409198+00', '2026-11-28 01:39:52.430465+00', '2026-11-28 01:39:52.506941+00', NULL, NULL, 1, 1718780215559050, 0, 0, false, false, false, 'r1', NULL, NULL, 2, 3, NULL, NULL, NULL, true, '2026-11-28 01:19:52.409198+00', 1, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-000000000014', 25, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'queued', '{"prompt":"with deadlines"}', NULL, NULL, 1, NULL, '2026-11-28 01:39:54.818901+00', NULL, NULL, '2026-11-28 02:39:54.818901+00', '2026-11-28 03:39:54.818901+00', 0, 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, '2026-11-28 01:39:54.818901+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-00000000001b', 31, 'bob', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'queued', '{"prompt":"queued of another tenant"}', NULL, NULL, 1, NULL, '2026-11-28 01:39:54.98581+00', NULL, NULL, NULL, NULL, 0, 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-28 01:39:54.98581+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-00000000001c', 32, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'other', 1, 'queued', '{"prompt":"in another pool"}', NULL, NULL, 1, NULL, '2026-11-28 01:39:55.035114+00', NULL, NULL, NULL, NULL, 0, 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-28 01:39:55.035114+00', 1, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-000000000004', 5, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'succeeded', '{"prompt":"follower"}', NULL, '{"output":{"images":[{"artifact":"019b0000-0000-7000-8000-000000000003/1/0.png"}],"text":"not for jsonb: \u0000 \ud800"},"artifacts":[{"key":"019b0000-0000-7000-8000-000000000003/1/0.png","media_type":"image/png","size":3,"sha256":"abababababababababababababababababababababababababababababababab","width":8,"height":8,"thumbnail":null}],"failure":null,"usage":{"run_s":0.0,"steps":0,"units":0.0,"share":1.0}}', 3, NULL, '2026-11-28 01:39:50.627612+00', '2026-11-28 01:39:50.680539+00', '2026-11-28 01:39:50.680539+00', NULL, NULL, 0, 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-28 01:39:50.627612+00', 1, 1.4999999999999998, NULL, '019b0000-0000-7000-8000-000000000003', NULL, NULL, 'https://follower.example.com/hook', 'https://darkroom.example.com', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-000000000006', 7, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'failed', '{"prompt":"failed by hand"}', NULL, '{"output":null,"artifacts":[],"failure":{"code":"failed_by_hand","message":"An operator of this installation ended the request: It blocks the others.","retryable":false,"field":null,"type":null,"context":null},"usage":{"run_s":0.0,"steps":0,"units":0.0,"share":1.0}}', 2, NULL, '2026-11-28 01:39:51.037176+00', NULL, '2026-11-28 01:39:51.117235+00', NULL, NULL, 0, 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-28 01:39:51.037176+00', 1, 1.5, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-000000000017', 21, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'queued', '{"prompt":"suspect"}', NULL, NULL, 3, NULL, '2026-11-28 01:39:53.900755+00', '2026-11-28 01:39:54.007901+00', NULL, NULL, NULL, 1, 6531642683543777, 1, 0, false, true, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-28 01:39:53.900755+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-00000000000e', 8, 'bob', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'succeeded', '{"prompt":"of another tenant"}', NULL, '{"output":{"images":[{"artifact":"019b0000-0000-7000-8000-00000000000e/1/0.png"}],"text":"not for jsonb: \u0000 \ud800"},"artifacts":[{"key":"019b0000-0000-7000-8000-00000000000e/1/0.png","media_type":"image/png","size":3,"sha256":"abababababababababababababababababababababababababababababababab","width":8,"height":8,"thumbnail":null}],"failure":null,"usage":{"run_s":1.5,"steps":4,"units":1.0,"share":1.0}}', 3, NULL, '2026-11-28 01:39:51.178696+00', '2026-11-28 01:39:51.203823+00', '2026-11-28 01:39:51.220969+00', NULL, NULL, 1, 1904753696106694, 0, 0, false, false, false, 'r1', NULL, NULL, 2, 3, NULL, NULL, NULL, true, '2026-11-28 01:39:51.178696+00', 1, 1.5, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-000000000007', 9, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'cancelled', '{"prompt":"cancelled"}', NULL, '{"output":null,"artifacts":[],"failure":{"code":"cancelled","message":"The request was cancelled.","retryable":false,"field":null,"type":null,"context":null},"usage":{"run_s":0.0,"steps":0,"units":0.0,"share":1.0}}', 2, NULL, '2026-11-28 01:39:51.2493+00', NULL, '2026-11-28 01:39:51.28326+00', NULL, NULL, 0, 0, 0, 0, false, false, true, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-28 01:39:51.2493+00', 1, 1.5, NULL, NULL, NULL, NULL, 'https://cancelled.example.com/hook', 'https://darkroom.example.com', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-000000000008', 10, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'cancelled', '{"prompt":"cancelled while it ran"}', NULL, '{"output":null,"artifacts":[],"failure":{"code":"cancelled","message":"The request was cancelled.","retryable":false,"field":null,"type":null,"context":null},"usage":{"run_s":0.0,"steps":0,"units":0.0,"share":1.0}}', 4, NULL, '2026-11-28 01:39:51.34592+00', '2026-11-28 01:39:51.404479+00', '2026-11-28 01:39:51.518276+00', NULL, NULL, 1, 7501471951470705, 0, 0, false, false, true, 'r1', NULL, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-28 01:39:51.34592+00', 1, 1.5, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-000000000009', 11, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'expired', '{"prompt":"expired"}', NULL, '{"output":null,"artifacts":[],"failure":{"code":"expired","message":"The request did not start within the time that it allowed.","retryable":false,"field":null,"type":null,"context":null},"usage":{"run_s":0.0,"steps":0,"units":0.0,"share":1.0}}', 2, NULL, '2026-11-28 01:39:51.581078+00', NULL, '2026-11-28 01:39:51.618297+00', '2026-11-28 01:39:51.591078+00', NULL, 0, 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-28 01:39:51.581078+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-00000000000c', 14, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'succeeded', '{}', NULL, '{"output":null,"artifacts":[],"failure":null,"usage":{"run_s":1.5,"steps":4,"units":1.0,"share":1.0}}', 3, NULL, '2026-11-28 01:39:52.032936+00', '2026-11-28 01:39:52.056443+00', '2026-11-27 23:39:52.070941+00', NULL, NULL, 1, 3883997830588592, 0, 0, false, false, false, 'r1', NULL, NULL, 2, 3, NULL, NULL, NULL, true, '2026-11-28 01:39:52.032936+00', 1, 1.5, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, 'done'),
	('019b0000-0000-7000-8000-000000000011', 18, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'running', '{"prompt":"cancel requested"}', NULL, NULL, 3, NULL, '2026-11-28 01:39:53.225944+00', '2026-11-28 01:39:53.246849+00', NULL, NULL, NULL, 1, 5115510045940911, 0, 0, true, false, true, 'r2', 'actor-r2', '2026-11-28 01:49:53.37589+00', 2, NULL, NULL, NULL, NULL, true, '2026-11-28 01:39:53.225944+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-000000000010', 20, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'running', '{"prompt":"unconfirmed"}', NULL, NULL, 2, NULL, '2026-11-28 01:39:53.605803+00', '2026-11-28 01:39:53.620469+00', NULL, NULL, NULL, 1, 3957049407861432, 0, 0, false, false, false, 'r4', 'actor-r4', '2026-11-28 01:49:53.620469+00', 2, NULL, NULL, NULL, NULL, true, '2026-11-28 01:39:53.605803+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-000000000019', 23, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'queued', '{"prompt":"requeued by hand"}', NULL, NULL, 3, NULL, '2026-11-28 01:39:54.340705+00', '2026-11-28 01:39:54.366852+00', NULL, NULL, NULL, 1, 5394837256601069, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-28 01:39:54.340705+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-000000000016', 27, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 0, 'queued', '{"prompt":"to be forgotten"}', NULL, NULL, 1, NULL, '2026-11-28 01:39:54.871244+00', NULL, NULL, NULL, NULL, 0, 0, 0, 0, false, true, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-28 01:49:54.871244+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, 'input'),
	('019b0000-0000-7000-8000-00000000001a', 28, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'queued', '{"prompt":"queued leader"}', NULL, NULL, 1, NULL, '2026-11-28 01:39:54.881937+00', NULL, NULL, NULL, NULL, 0, 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-28 01:39:54.881937+00', 1, 1.4999999999999998, '\x717565756564206c65616465722e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e', NULL, '019b0000-0000-7000-8000-00000000001a', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-00000000001e', 29, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'following', '{"prompt":"following a running request"}', NULL, NULL, 2, NULL, '2026-11-28 01:39:54.908933+00', NULL, NULL, NULL, NULL, 0, 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-28 01:39:54.908933+00', 1, 1.4999999999999998, '\x72756e6e696e67206c65616465722e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e', NULL, NULL, '019b0000-0000-7000-8000-000000000012', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-00000000000b', 15, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'succeeded', '{}', NULL, '{"output":{"images":[{"artifact":"019b0000-0000-7000-8000-00000000000b/1/0.png"}],"text":"not for jsonb: \u0000 \ud800"},"artifacts":[{"key":"019b0000-0000-7000-8000-00000000000b/1/0.png","media_type":"image/png","size":3,"sha256":"abababababababababababababababababababababababababababababababab","width":8,"height":8,"thumbnail":null}],"failure":null,"usage":{"run_s":1.5,"steps":4,"units":1.0,"share":1.0}}', 3, NULL, '2026-11-28 01:39:52.242572+00', '2026-11-28 01:39:52.25045+00', '2026-11-28 01:39:52.277893+00', NULL, NULL, 1, 1672196286496528, 0, 0, false, false, false, 'r1', NULL, NULL, 2, 3, NULL, NULL, NULL, true, '2026-11-28 01:39:52.242572+00', 1, 1.5, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, 'outcome'),
	('019b0000-0000-7000-8000-000000000012', 19, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'running', '{"prompt":"running leader"}', NULL, NULL, 2, NULL, '2026-11-28 01:39:53.469445+00', '2026-11-28 01:39:53.553315+00', NULL, NULL, NULL, 1, 3211557468529748, 0, 0, true, false, false, 'r3', 'actor-r3', '2026-11-28 01:49:53.590274+00', 2, NULL, NULL, NULL, NULL, true, '2026-11-28 01:39:53.469445+00', 1, 1.4999999999999998, '\x72756e6e696e67206c65616465722e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e', NULL, '019b0000-0000-7000-8000-000000000012', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-00000000000f', 17, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'running', '{"prompt":"running"}', NULL, NULL, 2, NULL, '2026-11-28 01:39:53.06758+00', '2026-11-28 01:39:53.077598+00', NULL, NULL, NULL, 1, 1297441249260640, 0, 0, true, false, false, 'r1', 'actor-r1', '2026-11-28 01:49:53.113209+00', 2, NULL, NULL, 's/019b0000-0000-7000-8000-00000000000f/1/0.bin', 10, true, '2026-11-28 01:39:53.06758+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, 'https://running.example.com/hook', 'https://darkroom.example.com', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-000000000018', 22, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'queued', '{"prompt":"handed back"}', NULL, NULL, 3, NULL, '2026-11-28 01:39:54.223488+00', '2026-11-28 01:39:54.268964+00', NULL, NULL, NULL, 1, 4209732384408586, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, 's/019b0000-0000-7000-8000-000000000018/1/0.bin', 7, true, '2026-11-28 01:39:54.223488+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-000000000013', 24, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 2, 'queued', '{"prompt":"queued"}', NULL, NULL, 2, NULL, '2026-11-28 01:39:54.712475+00', NULL, NULL, NULL, NULL, 0, 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, '{1,2,0}', NULL, NULL, true, '2026-11-28 01:29:54.712475+00', 30, 44.99999999999999, NULL, NULL, NULL, NULL, 'https://queued.example.com/hook', 'https://darkroom.example.com', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-00000000001f', 30, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'following', '{"prompt":"following a queued request"}', NULL, NULL, 2, NULL, '2026-11-28 01:39:54.924945+00', NULL, NULL, NULL, NULL, 0, 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-28 01:39:54.924945+00', 1, 1.4999999999999998, '\x717565756564206c65616465722e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e', NULL, NULL, '019b0000-0000-7000-8000-00000000001a', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-000000000015', 26, 'ann', NULL, 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'queued', '{"prompt": "with a large input"}', '{"prompt":"with a large input","image":"data:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\u2026 (65541 characters)"}', NULL, 1, NULL, '2026-11-28 01:39:54.847745+00', NULL, NULL, NULL, NULL, 0, 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-28 01:39:54.847745+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL),
	('019b0000-0000-7000-8000-00000000001d', 33, 'ann', NULL, 'fal-ai/paused', '0123456789abcdef', 'studio', 1, 'queued', '{"prompt":"paused"}', NULL, NULL, 1, NULL, '2026-11-28 01:39:55.084433+00', NULL, NULL, NULL, NULL, 0, 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, true, '2026-11-28 01:39:55.084433+00', 1, 1.4999999999999998, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL);

INSERT INTO public.undelivered (request_id, api_key, body_digest, at) VALUES
	('019b0000-0000-7000-8000-000000000013', 'dk_replaying', '\x6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c', '2026-11-28 01:39:54.766029+00');

INSERT INTO public.uploads (key, id, tenant, media_type, keep_s, parts_id, state, size, created_at, due_at) VALUES
	('u/open.png', 'openopenopenopen', 'ann', 'image/png', NULL, NULL, 'open', NULL, '2026-11-28 01:39:52.850795+00', '2026-11-28 07:39:52.850795+00'),
	('u/parts.png', 'partspartspartsparts', 'ann', 'image/png', NULL, 'storage-7', 'open', NULL, '2026-11-28 01:39:52.863857+00', '2026-11-28 07:39:52.863857+00'),
	('u/whole.png', 'wholewholewholewhole', 'ann', 'image/png', NULL, NULL, 'whole', 3221225472, '2026-11-28 01:39:52.879021+00', NULL),
	('u/whole for an hour.png', 'whole for an hourwhole for an hourwhole for an hourwhole for an hour', 'ann', 'image/png', 3600, NULL, 'whole', 1000, '2026-11-28 01:39:52.893572+00', '2026-11-28 02:39:53.054299+00'),
	('u/given up.png', 'given upgiven upgiven upgiven up', 'ann', 'image/png', NULL, NULL, 'unwanted', NULL, '2026-11-28 01:39:52.897241+00', '2026-11-28 01:39:53.061674+00');

INSERT INTO public.upload_parts (key, number, etag, size) VALUES
	('u/parts.png', 1, 'abababababababababababababababab', 5242880),
	('u/parts.png', 2, 'abababababababababababababababab', 5242880);

INSERT INTO public.upload_totals (tenant, bytes) VALUES
	('ann', 3221226472);

INSERT INTO public.usage (request_id, tenant, key_id, endpoint, state, attempt, run_s, steps, units, images, megapixels, at, submitted_at, price, billed, amount, reserved) VALUES
	('019b0000-0000-7000-8000-000000000000', 'ann', NULL, 'fal-ai/flux/schnell', 'succeeded', 1, 1.5, 4, 1, 1, 1, '2026-11-28 01:39:48.285451+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000001', 'ann', NULL, 'fal-ai/flux/schnell', 'succeeded', 8, 1.5, 4, 1, 1, 1, '2026-11-28 01:39:50.482902+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000002', 'ann', NULL, 'fal-ai/flux/schnell', 'succeeded', 0, 0, 0, 0, 0, 0, '2026-11-28 01:39:50.506889+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000003', 'ann', NULL, 'fal-ai/flux/schnell', 'succeeded', 1, 1.5, 4, 1, 1, 1, '2026-11-28 01:39:50.657184+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000004', 'ann', NULL, 'fal-ai/flux/schnell', 'succeeded', 0, 0, 0, 0, 0, 0, '2026-11-28 01:39:50.680539+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000005', 'ann', NULL, 'fal-ai/flux/schnell', 'failed', 2, 0, 0, 0, 0, 0, '2026-11-28 01:39:50.994171+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000006', 'ann', NULL, 'fal-ai/flux/schnell', 'failed', 0, 0, 0, 0, 0, 0, '2026-11-28 01:39:51.117235+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-00000000000e', 'bob', NULL, 'fal-ai/flux/schnell', 'succeeded', 1, 1.5, 4, 1, 1, 1, '2026-11-28 01:39:51.220969+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000007', 'ann', NULL, 'fal-ai/flux/schnell', 'cancelled', 0, 0, 0, 0, 0, 0, '2026-11-28 01:39:51.28326+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000008', 'ann', NULL, 'fal-ai/flux/schnell', 'cancelled', 1, 0, 0, 0, 0, 0, '2026-11-28 01:39:51.518276+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000009', 'ann', NULL, 'fal-ai/flux/schnell', 'expired', 0, 0, 0, 0, 0, 0, '2026-11-28 01:39:51.618297+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-00000000000a', 'ann', NULL, 'fal-ai/flux/schnell', 'expired', 1, 0, 0, 0, 0, 0, '2026-11-28 01:39:51.817323+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000020', 'ann', NULL, 'fal-ai/flux/schnell', 'succeeded', 1, 1.5, 4, 1, 1, 1, '2026-11-28 01:39:51.890296+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-00000000000c', 'ann', NULL, 'fal-ai/flux/schnell', 'succeeded', 1, 1.5, 4, 1, 1, 1, '2026-11-28 01:39:52.070941+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-00000000000b', 'ann', NULL, 'fal-ai/flux/schnell', 'succeeded', 1, 1.5, 4, 1, 1, 1, '2026-11-28 01:39:52.277893+00', NULL, NULL, NULL, NULL, NULL),
	('0000a354-6ce0-b1ba-378a-b0c6525f7309', 'ann', NULL, 'fal-ai/flux/schnell', 'succeeded', 1, 0.2, 1, 0.25, 1, 1, '2026-11-28 01:39:52.455872+00', NULL, NULL, NULL, NULL, NULL),
	('0000a354-6ce0-b640-b43f-2c395305ebc4', 'ann', NULL, 'fal-ai/flux/schnell', 'succeeded', 1, 0.2, 1, 0.25, 1, 1, '2026-11-28 01:39:52.472279+00', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-00000000000d', 'ann', NULL, 'fal-ai/flux/schnell', 'succeeded', 1, 2, 0, 0, 0, 0, '2026-11-28 01:39:52.506941+00', NULL, NULL, NULL, NULL, NULL);

INSERT INTO public.webhook_deliveries (id, request_id, tenant, url, state, tries, due_at, created_at, claims, since, ended_at, body, status, error) VALUES
	('574987f7-c3b1-4ccd-87f3-009b7064a394', '019b0000-0000-7000-8000-000000000002', 'ann', 'https://reused.example.com/hook', 'pending', 0, '2026-11-28 01:39:50.506889+00', '2026-11-28 01:39:50.506889+00', 0, '2026-11-28 01:39:50.506889+00', NULL, NULL, NULL, ''),
	('08dbffd8-d2f2-4566-986b-5fb4ec7588d7', '019b0000-0000-7000-8000-000000000000', 'ann', 'https://succeeded.example.com/hook', 'delivered', 1, '2026-11-28 01:39:52.645546+00', '2026-11-28 01:39:48.285451+00', 2, '2026-11-28 01:39:48.285451+00', '2026-11-28 01:39:52.645546+00', '\x7b22737461747573223a20224f4b227d', 200, ''),
	('9795573e-8d6b-4c5c-af01-bfce399fd492', '019b0000-0000-7000-8000-000000000004', 'ann', 'https://follower.example.com/hook', 'pending', 0, '2026-11-28 01:39:52.733457+00', '2026-11-28 01:39:50.680539+00', 3, '2026-11-28 01:39:52.733457+00', NULL, '\x7b22737461747573223a20224f4b227d', 200, ''),
	('c7a54648-625a-4f84-afec-c97727500cae', '019b0000-0000-7000-8000-000000000001', 'ann', 'https://many-attempts.example.com/hook', 'pending', 1, '2026-11-28 01:39:52.785444+00', '2026-11-28 01:39:50.482902+00', 2, '2026-11-28 01:39:50.482902+00', NULL, '\x7b22737461747573223a20224f4b227d', 503, 'It answered 503.'),
	('d624d0c8-feaf-47ad-ae31-a88e0246da0c', '019b0000-0000-7000-8000-000000000005', 'ann', 'https://failed.example.com/hook', 'dead', 1, '2026-11-28 01:39:52.80686+00', '2026-11-28 01:39:50.994171+00', 2, '2026-11-28 01:39:50.994171+00', '2026-11-28 01:39:52.80686+00', NULL, NULL, 'It did not answer.'),
	('63d8b503-9ca3-419c-9470-bd9fe95b3e03', '019b0000-0000-7000-8000-000000000007', 'ann', 'https://cancelled.example.com/hook', 'pending', 0, '2026-11-28 01:40:32.834851+00', '2026-11-28 01:39:51.28326+00', 1, '2026-11-28 01:39:51.28326+00', NULL, NULL, NULL, '');

INSERT INTO public.webhook_keys (kid, seed, created_at, signs_from) VALUES
	('whk_8435be4d6d6346ed', '146f7d924ec68d69fbe5a80ad942c5ffa1b9b960a8976bb95a054de795216d20', '2026-11-28 01:39:47.910854+00', '2026-11-28 01:39:47.910854+00'),
	('whk_d424651f2a672f49', 'f4863bf914e4dbc12d1a0b9acef92af2ca7ec29972baacd7be5ddda0ce904c02', '2026-11-28 01:39:47.938966+00', '2026-11-29 02:39:47.938966+00');

INSERT INTO public.webhook_tries (delivery, claim, at, took_s, status, error) VALUES
	('08dbffd8-d2f2-4566-986b-5fb4ec7588d7', 1, '2026-11-28 01:39:52.525546+00', 0.12, 200, ''),
	('9795573e-8d6b-4c5c-af01-bfce399fd492', 1, '2026-11-28 01:39:52.596283+00', 0.12, 200, ''),
	('c7a54648-625a-4f84-afec-c97727500cae', 1, '2026-11-28 01:39:51.785444+00', 1, 503, 'It answered 503.'),
	('d624d0c8-feaf-47ad-ae31-a88e0246da0c', 1, '2026-11-28 01:39:22.80686+00', 30, NULL, 'It did not answer.');

SELECT pg_catalog.setval('public.audit_id_seq', 9, true);

SELECT pg_catalog.setval('public.file_url_revocation_numbers', 1, false);

SELECT pg_catalog.setval('public.requests_place_seq', 33, true);
