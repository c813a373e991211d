{{/* Volumes: those of the directories and the one of the state, in the same words. */}}

{{/* Sources that a volume may name. */}}
{{- define "jetsync.volumeSources" -}}
[hostPath, persistentVolumeClaim, existingClaim, emptyDir, source]
{{- end -}}

{{/* A name that Kubernetes takes for a volume, made of the name of a mapping; different for different names. */}}
{{- define "jetsync.volumeName" -}}
{{- $name := printf "data-%s" . -}}
{{- if regexMatch "^[a-z0-9-]{1,58}[a-z0-9]$" $name -}}
{{- $name -}}
{{- else -}}
{{- printf "%s-%s" ($name | lower | replace "_" "-" | replace "." "-" | trunc 50 | trimSuffix "-") (. | sha256sum | trunc 8) -}}
{{- end -}}
{{- end -}}

{{/* All volumes: [{key, name, mountPath, readOnly, sources, value}]; sources: which of them it names. mountPath may be missing. */}}
{{- define "jetsync.volumes" -}}
{{- $known := include "jetsync.volumeSources" . | fromYamlArray -}}
{{- $directories := dict -}}
{{- range include "jetsync.entries" . | fromYamlArray -}}
{{- $_ := set $directories .name .directory -}}
{{- end -}}
{{- $volumes := list -}}
{{- range $key, $value := .Values.volumes -}}
{{- $value = $value | default dict -}}
{{- $sources := list -}}
{{- range $known }}{{ if hasKey $value . }}{{ $sources = append $sources . }}{{ end }}{{ end -}}
{{- $volumes = append $volumes (dict "key" (printf "volumes.%s" $key) "name" (include "jetsync.volumeName" $key) "mountPath" ($value.mountPath | default (get $directories $key)) "readOnly" ($value.readOnly | default false) "sources" $sources "value" $value) -}}
{{- end -}}
{{- $sources := list -}}
{{- range $known }}{{ if hasKey $.Values.state . }}{{ $sources = append $sources . }}{{ end }}{{ end -}}
{{- $sources = $sources | default (list "emptyDir") -}}
{{- $volumes = append $volumes (dict "key" "state" "name" "state" "mountPath" (include "jetsync.stateDir" .) "readOnly" false "sources" $sources "value" .Values.state) -}}
{{- toYaml $volumes -}}
{{- end -}}

{{/* The claim of {context, volume}, without apiVersion and kind. */}}
{{- define "jetsync.claimSpec" -}}
{{- $claim := .persistentVolumeClaim -}}
accessModes:
  {{- toYaml ($claim.accessModes | default (list "ReadWriteOnce")) | nindent 2 }}
{{- if hasKey $claim "storageClassName" }}
storageClassName: {{ $claim.storageClassName | quote }}
{{- end }}
{{- with $claim.selector }}
selector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $claim.volumeName }}
volumeName: {{ . }}
{{- end }}
resources:
  requests:
    storage: {{ $claim.size }}
{{- end -}}

{{/* The pod's `volumes`, but for claim templates of a StatefulSet. */}}
{{- define "jetsync.podVolumes" -}}
- name: config
  {{- if .Values.existingConfig.secret }}
  secret:
    secretName: {{ .Values.existingConfig.secret }}
    defaultMode: 0440
  {{- else }}
  configMap:
    name: {{ .Values.existingConfig.configMap | default (include "jetsync.fullname" .) }}
  {{- end }}
{{- with include "jetsync.secretFiles" . | fromYamlArray }}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      {{- range . }}
      - {{ hasKey . "secret" | ternary "secret" "configMap" }}:
          name: {{ hasKey . "secret" | ternary .secret .configMap }}
          items:
            - key: {{ .key }}
              path: {{ .file }}
      {{- end }}
{{- end }}
- name: tmp
  emptyDir: {}
{{- range include "jetsync.volumes" . | fromYamlArray }}
{{- $source := first .sources }}
{{- if eq $source "hostPath" }}
- name: {{ .name }}
  hostPath:
    path: {{ .value.hostPath.path | quote }}
    type: {{ .value.hostPath.type | default "Directory" }}
{{- else if eq $source "existingClaim" }}
- name: {{ .name }}
  persistentVolumeClaim:
    claimName: {{ .value.existingClaim }}
{{- else if eq $source "emptyDir" }}
- name: {{ .name }}
  emptyDir: {{ .value.emptyDir | default dict | toJson }}
{{- else if eq $source "source" }}
- name: {{ .name }}
  {{- toYaml .value.source | nindent 2 }}
{{- else if and (eq $source "persistentVolumeClaim") (ne $.Values.kind "StatefulSet") }}
- name: {{ .name }}
  persistentVolumeClaim:
    claimName: {{ include "jetsync.fullname" $ }}-{{ .name }}
{{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The container's `volumeMounts`. The configuration is mounted as a directory: a file mounted alone is never updated. */}}
{{- define "jetsync.mounts" -}}
- name: config
  mountPath: {{ include "jetsync.configDir" . }}
  readOnly: true
{{- if include "jetsync.secretFiles" . | fromYamlArray }}
- name: secrets
  mountPath: {{ include "jetsync.secretsDir" . }}
  readOnly: true
{{- end }}
- name: tmp
  mountPath: /tmp
{{- range include "jetsync.volumes" . | fromYamlArray }}
- name: {{ .name }}
  mountPath: {{ .mountPath | quote }}
  {{- if .readOnly }}
  readOnly: true
  {{- end }}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The volumes whose directory the init container of volumePermissions gives to the agent. */}}
{{- define "jetsync.ownedVolumes" -}}
{{- $owned := list -}}
{{- range include "jetsync.volumes" . | fromYamlArray -}}
{{- if and (eq (first .sources) "hostPath") (not .readOnly) -}}
{{- $owned = append $owned . -}}
{{- end -}}
{{- end -}}
{{- toYaml $owned -}}
{{- end -}}

{{/* The directories below volumes that begin empty, where nobody has made them: [{where, directory}]. */}}
{{- define "jetsync.newDirectories" -}}
{{- $found := list -}}
{{- if .Values.makeDirectories -}}
{{- $volumes := include "jetsync.volumes" . | fromYamlArray -}}
{{- range $entry := include "jetsync.entries" . | fromYamlArray -}}
{{- range $volumes -}}
{{- $below := hasPrefix (printf "%s/" (trimSuffix "/" .mountPath)) $entry.directory -}}
{{- if and $below (ne (trimSuffix "/" $entry.directory) .mountPath) (has (first .sources) (list "persistentVolumeClaim" "emptyDir")) -}}
{{- $found = append $found (dict "where" $entry.where "directory" $entry.directory) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $found -}}
{{- end -}}
