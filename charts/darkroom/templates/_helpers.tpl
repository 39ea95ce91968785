{{/* Name of the objects: the release's, with the chart's if it does not have it. */}}
{{- define "darkroom.name" -}}
{{- $name := .Release.Name -}}
{{- if not (contains .Chart.Name $name) }}{{ $name = printf "%s-%s" $name .Chart.Name }}{{ end -}}
{{- $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "darkroom.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{/* Relabelings of metrics, with the job's name. A pod whose image is still pulled has no metrics. */}}
{{- define "darkroom.relabelings" -}}
- {sourceLabels: [__meta_kubernetes_pod_phase], regex: Running, action: keep}
- {sourceLabels: [__meta_kubernetes_pod_label_ray_io_cluster], targetLabel: ray_io_cluster}
- {targetLabel: job, replacement: {{ . }}}
{{- end -}}

{{- define "darkroom.redisAddress" -}}
{{- .Values.headFaultTolerance.redisAddress | default (printf "%s-redis:6379" (include "darkroom.name" .)) -}}
{{- end -}}

{{/* Pools as in darkroom.yaml, in a list, each with its `name`. */}}
{{- define "darkroom.pools" -}}
{{- $keys := .Files.Get "files/settings.json" | fromJson -}}
{{- $pools := list -}}
{{- range $class := .Values.nodeClasses -}}
{{- range $pool := $class.pools -}}
{{- range $key, $_ := omit $pool "name" -}}
{{- if not (has $key $keys.pool) }}{{ fail (printf "The pool %s has the key %s. Pools have: %s." $pool.name $key (join ", " $keys.pool)) }}{{ end -}}
{{- end -}}
{{- $stops := $pool.graceful_shutdown_timeout_s | default 20 | int -}}
{{- if lt (int $.Values.workers.terminationGracePeriodSeconds) (add $stops 30 | int) }}{{ fail (printf "The pool %s hands over its requests in up to %d s (graceful_shutdown_timeout_s). Set workers.terminationGracePeriodSeconds to %d or more." $pool.name $stops (add $stops 30)) }}{{ end -}}
{{- $of := dict -}}
{{- if $class.accelerator }}{{ $of = dict "accelerator" $class.accelerator "num_gpus" 1 }}{{ end -}}
{{- $pools = append $pools (merge (deepCopy $pool) $of) -}}
{{- end -}}
{{- end -}}
{{- $pools | toYaml -}}
{{- end -}}

{{/* Families of a pool: its own, or those of the pool whose requests it takes. */}}
{{- define "darkroom.families" -}}
{{- $families := .pool.families -}}
{{- $pools := .pools -}}
{{- $of := .pool.overflow_of | default .pool.canary_of -}}
{{- if $of -}}
{{- range $pools }}{{ if eq .name $of }}{{ $families = include "darkroom.families" (dict "pool" . "pools" $pools) | fromYamlArray }}{{ end }}{{ end -}}
{{- end -}}
{{- $families | default list | toYaml -}}
{{- end -}}

{{/* What darkroom.yaml and the configuration for Serve begin with. */}}
{{- define "darkroom.http" -}}
http_options:
  host: 0.0.0.0
  port: 8000
proxy_location: HeadOnly
{{- end -}}

{{/* darkroom.yaml, which the ingress watches. */}}
{{- define "darkroom.configuration" -}}
{{ include "darkroom.http" . }}
applications:
  - name: darkroom
    import_path: serve_app.app:build
    route_prefix: /
    args:
      {{- include "darkroom.settings" . | nindent 6 }}
      pools:
        {{- range include "darkroom.pools" . | fromYamlArray }}
        {{ .name }}: {{ omit . "name" | toJson }}
        {{- end }}
{{- end -}}

{{/* Darkroom's settings, those of the chart among them. */}}
{{- define "darkroom.settings" -}}
{{- $keys := .Files.Get "files/settings.json" | fromJson -}}
{{- range $key, $_ := .Values.settings -}}
{{- if not (has $key $keys.settings) }}{{ fail (printf "settings.%s is no setting of Darkroom. See docs/reference/settings.md; pools are in nodeClasses." $key) }}{{ end -}}
{{- end -}}
{{- toYaml .Values.settings -}}
{{- end -}}

{{/* Configuration for Serve, as `darkroom serve-config` writes it from darkroom.yaml: an application for
each pool, with the settings that its replicas need at their start, so that a change replaces as little
as possible. Without the version: another image replaces the whole cluster. */}}
{{- define "darkroom.serveConfig" -}}
{{- $keys := .Files.Get "files/settings.json" | fromJson -}}
{{- $pools := include "darkroom.pools" . | fromYamlArray -}}
{{- $ofIngress := dict "config_file" "/etc/darkroom/darkroom.yaml" -}}
{{- $ofReplicas := dict -}}
{{- range $key, $value := .Values.settings -}}
{{- if not (has $key $keys.not_of_ingress) }}{{ $_ := set $ofIngress $key $value }}{{ end -}}
{{- if has $key $keys.of_replicas }}{{ $_ := set $ofReplicas $key $value }}{{ end -}}
{{- end -}}
{{ include "darkroom.http" . }}
applications:
  - name: darkroom
    import_path: serve_app.app:build_ingress
    route_prefix: /
    args:
      {{- toYaml $ofIngress | nindent 6 }}
  {{- range $pool := $pools }}
  {{- $families := include "darkroom.families" (dict "pool" $pool "pools" $pools) | fromYamlArray }}
  {{- $code := dict }}
  {{- range $families }}{{ if hasKey ($.Values.settings.families | default dict) . }}{{ $_ := set $code . (get $.Values.settings.families .) }}{{ end }}{{ end }}
  {{- $own := dict }}
  {{- range $other := $pools }}{{ if eq $other.name ($pool.canary_of | default "") }}
  {{- range $key, $value := $other }}{{ if not (has $key $keys.own_of_canary) }}{{ $_ := set $own $key $value }}{{ end }}{{ end }}
  {{- end }}{{ end }}
  {{- range $key, $value := $pool }}{{ $_ := set $own $key $value }}{{ end }}
  {{- $_ := set $own "families" $families }}
  {{- range $key := concat $keys.bounds (list "name") }}{{ $_ := unset $own $key }}{{ end }}
  - name: darkroom-{{ $pool.name }}
    import_path: serve_app.app:build_pool
    route_prefix: null
    {{- with $pool.code }}
    runtime_env: {py_modules: [{{ . | quote }}]}
    {{- end }}
    args:
      {{- with $ofReplicas }}{{ toYaml . | nindent 6 }}{{ end }}
      families: {{ toJson $code }}
      pools:
        {{ $pool.name }}:
          {{- toYaml $own | nindent 10 }}
  {{- end }}
{{- end -}}

{{- define "darkroom.image" -}}
{{- $repository := required "image.repository is empty. Build the image, push it to your registry, and name it there." .Values.image.repository -}}
{{- if .Values.image.digest }}{{ $repository }}@{{ .Values.image.digest }}{{ else }}{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end -}}
{{- end -}}

{{/* Fields of the specification of a pod of Ray. Kubernetes would set DARKROOM_PORT and others by the
names of the Services, and Darkroom refuses settings that it does not know. The autoscaler replaces pods
itself. */}}
{{- define "darkroom.pod" -}}
enableServiceLinks: false
{{- if .Values.autoscaler.enabled }}
restartPolicy: Never
{{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Fields of the container of a pod of Ray. The probes ask for Ray on the node. Not for Darkroom's
/readyz: KubeRay deploys to a head that is ready. KubeRay's own probe would wait on workers for a proxy,
which they do not have. */}}
{{- define "darkroom.container" -}}
image: {{ include "darkroom.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
startupProbe:
  httpGet: {path: /api/healthz, port: 52365}
  periodSeconds: 5
  failureThreshold: 36
readinessProbe:
  httpGet: {path: /api/healthz, port: 52365}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 3
livenessProbe:
  httpGet: {path: /api/healthz, port: 52365}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 12
securityContext:
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* Environment of every pod of Ray. HAProxy passes on what clients write, so FORWARDED_ALLOW_IPS is
empty. How it is started and checked: docs/how-to/operate.md. The last one: seconds for which the
workers wait for a head that is started again. */}}
{{- define "darkroom.environment" -}}
- {name: RAY_SERVE_ENABLE_HA_PROXY, value: "1"}
- {name: RAY_SERVE_HAPROXY_BINARY_PATH, value: /usr/local/bin/darkroom-haproxy}
- {name: RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER, value: 2s}
- {name: RAY_SERVE_HAPROXY_HEALTH_CHECK_FALL, value: "3"}
- {name: RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S, value: "0.5"}
- {name: RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S, value: "1.5"}
- {name: RAY_SERVE_PROXY_GRACEFUL_SHUTDOWN_TIMEOUT_S, value: "1"}
- {name: RAY_SERVE_THROUGHPUT_OPTIMIZED, value: "1"}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
- {name: HF_HUB_DISABLE_TELEMETRY, value: "1"}
- {name: FORWARDED_ALLOW_IPS, value: ""}
- {name: RAY_gcs_rpc_server_reconnect_timeout_s, value: "600"}
{{- end -}}
