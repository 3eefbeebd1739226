{{- define "internvl-server.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "internvl-server.metadata" -}}
name: {{ .Release.Name }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "internvl-server.selectorLabels" . | nindent 2 }}
  app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .Release.Service }}
  helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* YAML has floats only, once Helm has read it. */}}
{{- define "internvl-server.wholeNumbers" -}}
{{- range $key, $value := . }}
{{- if kindIs "map" $value }}
{{- include "internvl-server.wholeNumbers" $value }}
{{- else if and (kindIs "float64" $value) (eq (floor $value) $value) }}
{{- $_ := set $ $key (int64 $value) }}
{{- end }}
{{- end }}
{{- end }}

{{/* All settings of the server as TOML: the chart's defaults, then the file, then the values. */}}
{{- define "internvl-server.settings" -}}
{{- $settings := .Files.Get "defaults.toml" | fromToml }}
{{- if .Values.keys.secretName }}
{{- $_ := set $settings.server "keys_file" "/etc/internvl/keys/keys" }}
{{- end }}
{{- $file := .Values.settingsFile | default (.Files.Get "settings.toml") | fromToml }}
{{- if hasKey $file "Error" }}
{{- fail (printf "settingsFile is not TOML: %s" $file.Error) }}
{{- end }}
{{- $values := deepCopy .Values.settings }}
{{- include "internvl-server.wholeNumbers" $values }}
{{- $settings = mergeOverwrite $settings $file $values }}
{{- if or (hasKey $settings.server "api_keys") (hasKey $settings.server "named_keys") }}
{{- fail "API keys do not belong in a ConfigMap: put them into the Secret keys.secretName" }}
{{- end }}
{{- if not (or $settings.server.keys_file $settings.server.allow_anonymous) }}
{{- fail "set keys.secretName, or settings.server.allow_anonymous=true where a proxy in front authenticates" }}
{{- end }}
{{- toToml $settings }}
{{- end }}

{{- define "internvl-server.metricsPort" -}}
{{- with include "internvl-server.settings" . | fromToml -}}
{{- if .server.metrics }}{{ ternary "metrics" "http" (gt (int .server.metrics_port) 0) }}{{ end -}}
{{- end -}}
{{- end }}
