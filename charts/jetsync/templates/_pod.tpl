{{/* The pod: one template for Deployment, DaemonSet and StatefulSet. */}}
{{- define "jetsync.podTemplate" -}}
metadata:
  # None with the chart's version: a new chart alone is no reason for new pods.
  labels:
    {{- include "jetsync.selectorLabels" . | nindent 4 }}
    {{- with merge (dict) (.Values.podLabels | default dict) (.Values.commonLabels | default dict) }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    kubectl.kubernetes.io/default-container: jetsync
    {{- if not (include "jetsync.existing" .) }}
    {{- if eq .Values.reload "rollout" }}
    checksum/config: {{ include "jetsync.config" . | sha256sum }}
    {{- else }}
    checksum/restart: {{ include "jetsync.restartChecksum" . }}
    {{- end }}
    {{- end }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "jetsync.serviceAccountName" . }}
  automountServiceAccountToken: {{ .Values.automountServiceAccountToken }}
  enableServiceLinks: {{ .Values.enableServiceLinks }}
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  {{- with include "jetsync.imagePullSecrets" . }}
  imagePullSecrets:
    {{- . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- if .Values.hostNetwork }}
  hostNetwork: true
  {{- end }}
  {{- with .Values.dnsPolicy | default (.Values.hostNetwork | default false | ternary "ClusterFirstWithHostNet" "") }}
  dnsPolicy: {{ . }}
  {{- end }}
  {{- with .Values.dnsConfig }}
  dnsConfig:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.hostAliases }}
  hostAliases:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- range . }}
    {{- $selector := dict "labelSelector" (dict "matchLabels" (include "jetsync.selectorLabels" $ | fromYaml)) }}
    - {{- toYaml (hasKey . "labelSelector" | ternary . (merge $selector .)) | nindent 6 }}
    {{- end }}
  {{- end }}
  {{- $owned := .Values.volumePermissions.enabled | default false | ternary (include "jetsync.ownedVolumes" . | fromYamlArray) list }}
  {{- $directories := include "jetsync.newDirectories" . | fromYamlArray }}
  {{- if or $owned $directories .Values.initContainers }}
  initContainers:
    {{- with $owned }}
    {{- include "jetsync.chown" (dict "context" $ "volumes" .) | nindent 4 }}
    {{- end }}
    {{- with $directories }}
    - {{- include "jetsync.mkdir" (dict "context" $ "directories" .) | nindent 6 }}
    {{- end }}
    {{- with .Values.initContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
  containers:
    - {{- include "jetsync.container" . | nindent 6 }}
    {{- with .Values.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    {{- include "jetsync.podVolumes" . | nindent 4 }}
{{- end -}}

{{- define "jetsync.container" -}}
name: jetsync
image: {{ include "jetsync.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args:
  {{- toYaml .Values.args | nindent 2 }}
env:
  - name: JETSYNC_CONFIG
    value: {{ include "jetsync.configDir" . }}/{{ if include "jetsync.existing" . }}{{ .Values.existingConfig.key }}{{ else }}config.yaml{{ end }}
  {{- include "jetsync.env" . | nindent 2 }}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  - name: http
    containerPort: {{ include "jetsync.port" . }}
    protocol: TCP
{{- range $probe, $path := dict "startupProbe" "/livez" "livenessProbe" "/livez" "readinessProbe" "/readyz" }}
{{- with get $.Values $probe }}
{{ $probe }}:
  httpGet:
    path: {{ $path }}
    port: http
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with .Values.lifecycle }}
lifecycle:
  {{- toYaml . | nindent 2 }}
{{- end }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
volumeMounts:
  {{- include "jetsync.mounts" . | nindent 2 }}
{{- end -}}

{{/* What `${NAME}` in the configuration may name. */}}
{{- define "jetsync.env" -}}
{{- range $name, $field := dict "NODE_NAME" "spec.nodeName" "POD_NAME" "metadata.name" "POD_NAMESPACE" "metadata.namespace" }}
- name: {{ $name }}
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: {{ $field }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Makes directories, as the agent's user. The kubelet expands $(NAME). */}}
{{- define "jetsync.mkdir" -}}
{{- $values := .context.Values -}}
name: directories
image: {{ include "jetsync.image" .context | quote }}
imagePullPolicy: {{ $values.image.pullPolicy }}
command: [mkdir, -p]
args:
  {{- range .directories }}
  - {{ regexReplaceAll "\\$\\{([A-Za-z_][A-Za-z0-9_]*)\\}" .directory "$$($1)" | quote }}
  {{- end }}
env:
  {{- include "jetsync.env" .context | nindent 2 }}
{{- with $values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
resources:
  {{- toYaml $values.resources | nindent 2 }}
securityContext:
  {{- toYaml $values.securityContext | nindent 2 }}
volumeMounts:
  {{- include "jetsync.mounts" .context | nindent 2 }}
{{- end -}}

{{/* Root with one capability, for as long as a chown takes. */}}
{{- define "jetsync.chown" -}}
{{- $values := .context.Values -}}
- name: volume-permissions
  image: {{ include "jetsync.image" .context | quote }}
  imagePullPolicy: {{ $values.image.pullPolicy }}
  command: [chown]
  args:
    - {{ printf "%v:%v" $values.podSecurityContext.runAsUser $values.podSecurityContext.runAsGroup | quote }}
    {{- range .volumes }}
    - {{ .mountPath | quote }}
    {{- end }}
  resources:
    {{- toYaml $values.resources | nindent 4 }}
  securityContext:
    allowPrivilegeEscalation: false
    capabilities:
      add: [CHOWN]
      drop: [ALL]
    readOnlyRootFilesystem: true
    runAsNonRoot: false
    runAsUser: 0
    seccompProfile:
      type: RuntimeDefault
  volumeMounts:
    {{- range .volumes }}
    - name: {{ .name }}
      mountPath: {{ .mountPath | quote }}
    {{- end }}
{{- end -}}
